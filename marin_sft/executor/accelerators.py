"""What a `main` asks for on behalf of its trainings, in eformer's words. Nothing looks at the machine it is made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError
from marin_sft.execution.ray_environment import may_be_seen
from marin_sft.execution.resources import (
    CpuConfig,
    GpuConfig,
    Resources,
    RuntimeEnv,
    TpuPodConfig,
    check_resources,
)
from marin_sft.nearest import nearest_text
from marin_sft.training.checks import check_types

_RUNTIME_ENV = (  # Ray's own fields
    *("env_vars", "pip", "uv", "conda", "working_dir", "excludes", "py_modules", "py_executable"),
    *("image_uri", "container", "config", "worker_process_setup_hook"),
)


@dataclass(frozen=True)
class Environment:
    """Of a `main` and of all steps that it starts.

    visible: variables that Ray may show. private: those that it must not, with or without a secret's name.
    runtime_env: what else Ray sets up, such as `pip`.
    """

    visible: Mapping[str, str]
    private: Mapping[str, str]
    runtime_env: Mapping[str, object]

    @staticmethod
    def of(execution_env: Mapping[str, object], where: str) -> Environment:
        """Of eformer's dictionary, which is a runtime_env of Ray's. A variable with an empty value counts as not given.

        Raises:
            ConfigError: a name that Ray does not know, or a value that is no text. No value is repeated.
        """
        for name in execution_env:
            if name not in _RUNTIME_ENV:
                raise ConfigError(f"{where}[{name!r}]: Ray knows no such entry{nearest_text(name, _RUNTIME_ENV)}")
        variables = execution_env.get("env_vars") or {}
        if not isinstance(variables, Mapping):
            raise ConfigError(f"{where}['env_vars']: expected a dictionary of texts, got {type(variables).__name__}")
        for name, value in variables.items():
            if not isinstance(name, str) or not isinstance(value, str | None):
                got = type(value).__name__
                raise ConfigError(f"{where}['env_vars'][{name!r}]: expected a text, got a value of type {got}")
        given = {name: value for name, value in variables.items() if value}
        visible = {name: value for name, value in given.items() if may_be_seen(name, value)}
        return Environment(
            visible=visible,
            private={name: value for name, value in given.items() if name not in visible},
            runtime_env={name: value for name, value in execution_env.items() if name != "env_vars" and value},
        )

    def of_steps(self) -> RuntimeEnv:
        """What a step can be given by name; the rest reaches it because `main` has it."""
        pip = self.runtime_env.get("pip", ())
        return RuntimeEnv(self.visible, tuple(pip) if isinstance(pip, list | tuple) else ())


@dataclass(frozen=True)
class AcceleratorConfig(metaclass=NamedFields):
    """Base of the three below. `resources`: what the trainings of a `main` are to run on."""

    without_effect: ClassVar[tuple[str, ...]]
    """Names of eformer that may be given and that change nothing here."""

    def __post_init__(self) -> None:
        check_types(self)
        check_resources(f"{type(self).__name__}: resources", self.resources)

    @property
    def resources(self) -> Resources:
        raise NotImplementedError

    @property
    def environment(self) -> Environment:
        return Environment.of(vars(self)["execution_env"], f"{type(self).__name__}.execution_env")

    def unused(self) -> list[str]:
        """Names that were given and change nothing."""
        return [name for name in self.without_effect if getattr(self, name) is not None]


@dataclass(frozen=True)
class CpuAcceleratorConfig(AcceleratorConfig):
    """Cores alone."""

    without_effect = ("resource_name", "worker_count")

    core_count: float = 1
    """Cores of a training."""
    execution_env: Mapping[str, object] = field(default_factory=dict, hash=False, repr=False)
    """What Ray sets up for `main` and its steps: `env_vars`, `pip`, and the other entries of its runtime_env."""
    resource_name: str | None = None
    """Without effect."""
    runtime_name: str | None = None
    """The name of the Ray task that `main` is."""
    worker_count: int | None = None
    """Without effect: `main` runs once, and a training is one process on each host."""

    @property
    def resources(self) -> CpuConfig:
        return CpuConfig(self.core_count, runtime_env=self.environment.of_steps())


@dataclass(frozen=True)
class GpuAcceleratorConfig(AcceleratorConfig):
    """GPUs of one host."""

    without_effect = ("chips_per_host", "worker_count", "resource_name")

    device_count: int = 1
    """GPUs of a training."""
    execution_env: Mapping[str, object] = field(default_factory=dict, hash=False, repr=False)
    """What Ray sets up for `main` and its steps: `env_vars`, `pip`, and the other entries of its runtime_env."""
    gpu_model: str | None = None
    """Ray's name of the GPU, such as "H100"; None: any."""
    cpu_count: float = 1
    """Cores of a training."""
    chips_per_host: int | None = None
    """Without effect: `device_count` says how many."""
    runtime_name: str | None = None
    """The name of the Ray task that `main` is."""
    worker_count: int | None = None
    """Without effect: `main` runs once, and a training is one process on each host."""
    resource_name: str | None = None
    """Without effect."""

    @property
    def resources(self) -> GpuConfig:
        return GpuConfig(
            self.cpu_count,
            gpu_count=self.device_count,
            accelerator_type=self.gpu_model,
            runtime_env=self.environment.of_steps(),
        )


@dataclass(frozen=True)
class TpuAcceleratorConfig(AcceleratorConfig):
    """Slices of a TPU pod."""

    without_effect = ("worker_count",)

    tpu_version: str | None = None
    """The type of a slice with its cores, such as "v4-64"."""
    pod_count: int = 1
    """Slices of a training."""
    execution_env: Mapping[str, object] = field(default_factory=dict, hash=False, repr=False)
    """What Ray sets up for `main` and its steps: `env_vars`, `pip`, and the other entries of its runtime_env."""
    cpu_count: float = 2
    """Cores of a training."""
    chips_per_host: int | None = None
    """Chips to ask of the host by number; None: all that the slice has there."""
    worker_count: int | None = None
    """Without effect: the type says how many hosts a slice has."""
    runtime_name: str | None = None
    """The name of the Ray task that `main` is."""
    resource_name: str = "TPU"
    """Ray's resource that `chips_per_host` counts."""
    accelerator: str | None = field(default=None, kw_only=True)
    """Another name for `tpu_version`."""

    def __post_init__(self) -> None:
        if (self.tpu_version is None) == (self.accelerator is None):
            raise ConfigError(
                f"TpuAcceleratorConfig: tpu_version={self.tpu_version!r}, accelerator={self.accelerator!r}; expected "
                'one of them, e.g. TpuAcceleratorConfig("v4-64")'
            )
        super().__post_init__()

    @property
    def resources(self) -> TpuPodConfig:
        chips = {} if self.chips_per_host is None else {self.resource_name: self.chips_per_host}
        return TpuPodConfig(
            self.cpu_count,
            tpu_type=self.tpu_version or str(self.accelerator),
            slice_count=self.pod_count,
            custom=chips,
            runtime_env=self.environment.of_steps(),
        )
