"""Resource requests of steps. They are plain values, and never part of a step's identity."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError
from marin_sft.machines import OTHER_NAMES, TPUS, Slice, named, nearest_types, slice_of
from marin_sft.nearest import nearest
from marin_sft.redaction import looks_secret

# Ray's names. A node offers "accelerator_type:NAME". A request for an unknown name would wait forever.
ACCELERATORS = frozenset(
    """
    V100 P100 T4 P4 K80 A10G L4 L40S A100 A100-40G A100-80G H100 H200 H20 B200 B300 GB200 GB300 RTX-PRO-6000
    Intel-GPU-Max-1550 Intel-GPU-Max-1100 Intel-GAUDI AMD-Instinct-MI100 AMD-Instinct-MI250X
    AMD-Instinct-MI250X-MI250 AMD-Instinct-MI210 AMD-Instinct-MI300A AMD-Instinct-MI300X-OAM AMD-Instinct-MI300X-HF
    AMD-Instinct-MI308X AMD-Instinct-MI325X-OAM AMD-Instinct-MI350X-OAM AMD-Instinct-MI355X-OAM
    AMD-Radeon-R9-200-HD-7900 AMD-Radeon-HD-7900 aws-neuron-core TPU-V2 TPU-V3 TPU-V4 TPU-V5P TPU-V5LITEPOD TPU-V6E
    TPU-V7X Ascend910B Ascend910B4 MXC500 MXC550 FURIOSA_RNGD MOBILINT_ARIES MOBILINT_REGULUS M1 M1-Pro M1-Max M1-Ultra
    M2 M2-Pro M2-Max M2-Ultra M3 M3-Pro M3-Max Apple-Silicon
    """.split()
)
# NVIDIA has one file per GPU; AMD and WSL have one for all; TPUs have files by driver.
_GPU_FILES = ("/dev/nvidia[0-9]*",)
_UNCOUNTED_GPU_FILES = ("/dev/kfd", "/dev/dxg")
_TPU_FILES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_OWN_FIELDS = {"CPU": "cpus", "GPU": "GpuConfig", "memory": "memory"}


@dataclass(frozen=True)
class RuntimeEnv(metaclass=NamedFields):
    """The environment that Ray sets up for a step. The inline backend only applies `env_vars`.

    env_vars: environment variables, but no secrets.
    pip: requirements to install.
    working_dir: the URL of a zip file (gs://, s3://, https://).
    """

    env_vars: Mapping[str, str] = field(default_factory=dict, hash=False)
    pip: tuple[str, ...] = ()
    working_dir: str | None = None


@dataclass(frozen=True)
class Resources(metaclass=NamedFields):
    """Base of all resource requests. On a private Ray on this machine, requests are reduced to what exists.

    cpus: number of cores.
    memory: bytes; None: no request.
    custom: Ray custom resources by name.
    """

    cpus: float = 1
    memory: int | None = None
    custom: Mapping[str, float] = field(default_factory=dict, hash=False, kw_only=True)
    runtime_env: RuntimeEnv | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class CpuConfig(Resources):
    """CPU cores only, `cpus` on each of `hosts` machines."""

    hosts: int = field(default=1, kw_only=True)


@dataclass(frozen=True)
class GpuConfig(Resources):
    """`gpu_count` GPUs on each of `hosts` machines, of `accelerator_type` (Ray's name, e.g. "H100"; None: any)."""

    gpu_count: int = 1
    accelerator_type: str | None = None
    hosts: int = field(default=1, kw_only=True)


@dataclass(frozen=True)
class TpuPodConfig(Resources):
    """`slice_count` slices of `tpu_type`, e.g. "v4-128". "v5e-128" and Ray's "v5litepod-128" are the same.

    The step runs on all hosts of these slices. `cpus` and `memory` are for each of them.
    """

    tpu_type: str = field(kw_only=True)
    slice_count: int = 1

    def __post_init__(self) -> None:
        kind, dash, size = self.tpu_type.partition("-") if isinstance(self.tpu_type, str) else ("", "", "")
        if dash and kind in OTHER_NAMES:
            object.__setattr__(self, "tpu_type", f"{OTHER_NAMES[kind]}-{size}")


def hosts_of(resources: Resources) -> int:
    """The number of machines that a step runs on, with one process on each."""
    if isinstance(resources, TpuPodConfig):
        return resources.slice_count * tpu_slice(resources).hosts
    return resources.hosts if isinstance(resources, CpuConfig | GpuConfig) else 1


def device_count(resources: Resources) -> int:
    """The number of devices that JAX sees on all hosts of a request."""
    if isinstance(resources, TpuPodConfig):
        one = tpu_slice(resources)
        return hosts_of(resources) * one.chips * TPUS[resources.tpu_type.partition("-")[0]].devices
    per_host = max(1, int(resources.gpu_count)) if isinstance(resources, GpuConfig) else 1
    return hosts_of(resources) * per_host


def tpu_slice(resources: TpuPodConfig) -> Slice:
    """The machines of one slice."""
    found = slice_of(resources.tpu_type)
    assert found is not None, f"{resources.tpu_type} should have been refused"
    return found


def tpu_head(tpu_type: str) -> str:
    """The resource that only the first host of a slice has, by Ray's name."""
    return f"TPU-{tpu_type}-head"


def demand(resources: Resources) -> dict[str, float]:
    """The resources that a step requests on each of its hosts, by Ray's names. One host alone is a whole TPU slice."""
    asked: dict[str, float] = {"CPU": resources.cpus, **resources.custom}
    if resources.memory is not None:
        asked["memory"] = resources.memory
    if isinstance(resources, GpuConfig):
        asked["GPU"] = resources.gpu_count
        if resources.accelerator_type is not None:
            asked[f"accelerator_type:{resources.accelerator_type}"] = 0.001  # Ray's labels are resources
    elif isinstance(resources, TpuPodConfig):
        asked["TPU"] = tpu_slice(resources).chips
        if hosts_of(resources) == 1:
            asked[tpu_head(resources.tpu_type)] = 1
    return asked


def lacking_here(resources: Resources) -> list[str]:
    """What this machine lacks of a request, besides cores and memory; one message each.

    Looks at device files, so nothing needs to be imported.
    """
    absent = [f"resource {name!r}" for name in sorted(resources.custom)]
    if isinstance(resources, GpuConfig) and _gpus() == 0:
        absent.append("GPU")
    if isinstance(resources, TpuPodConfig) and not _devices(_TPU_FILES):
        absent.append(f"TPU ({resources.tpu_type})")
    lacking = [f"this machine has no {thing}; the step runs without it" for thing in absent]
    if isinstance(resources, CpuConfig | GpuConfig) and resources.hosts > 1:
        lacking.append(one_host_of(resources.hosts))
    if isinstance(resources, GpuConfig) and 0 < (found := _gpus()) < resources.gpu_count:
        lacking.append(f"the step requests {resources.gpu_count} GPUs, but this machine has {found}; it runs on these")
    return lacking


def one_host_of(hosts: int) -> str:
    """What to tell if a step for several machines runs on this one."""
    return f"the step requests {hosts} hosts; it runs on this one"


def _gpus() -> float:
    """How many GPUs a process on this machine would see; infinite if there are some but the number is unknown."""
    if _devices(_UNCOUNTED_GPU_FILES):
        return math.inf
    there, visible = len(_devices(_GPU_FILES)), os.environ.get("CUDA_VISIBLE_DEVICES")
    named = there if visible is None else len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return min(there, named)


def gpus_here() -> int:
    """How many GPUs a process on this machine would see; 0 if the number is unknown."""
    found = _gpus()
    return 0 if math.isinf(found) else int(found)


def _devices(patterns: Iterable[str]) -> list[str]:
    return [path for pattern in patterns for path in glob.glob(pattern)]


_Refuse: TypeAlias = Callable[[str, object, str], NoReturn]  # a field, what was got, what was expected


def check_resources(where: str, resources: Resources) -> None:
    """Raises:
    ConfigError: a request that no cluster can serve, or a runtime environment that would reveal a secret.
    """

    def refuse(field_name: str, got: object, expected: str) -> NoReturn:
        raise ConfigError(f"{where}{field_name}: got {got!r}, expected {expected}")

    if type(resources) not in (Resources, CpuConfig, GpuConfig, TpuPodConfig):
        refuse("", resources, "CpuConfig, GpuConfig or TpuPodConfig")
    if not _is_amount(resources.cpus):
        refuse(".cpus", resources.cpus, "a number of cores >= 0")
    if resources.memory is not None and not (_is_amount(resources.memory) and resources.memory >= 1):
        refuse(".memory", resources.memory, "a number of bytes, or None")
    if not isinstance(resources.custom, Mapping):
        refuse(".custom", resources.custom, 'numbers by name, such as {"magic": 1}')
    for name, amount in resources.custom.items():
        if name in _OWN_FIELDS:
            refuse(".custom", name, f"a custom resource; use {_OWN_FIELDS[name]} for {name}")
        if not isinstance(name, str) or not name or not _is_amount(amount) or amount == 0:
            refuse(f".custom[{name!r}]", amount, "a name with a number > 0")
    if isinstance(resources, GpuConfig):
        _check_gpu(resources, refuse)
    if isinstance(resources, CpuConfig | GpuConfig) and (type(resources.hosts) is not int or resources.hosts < 1):
        refuse(".hosts", resources.hosts, "a whole number >= 1")
    if isinstance(resources, TpuPodConfig):
        if not isinstance(resources.tpu_type, str) or slice_of(resources.tpu_type) is None:
            near = " or ".join(nearest_types(str(resources.tpu_type)))
            usual = f'a type and its cores, such as "v4-8", "v5e-16" or "v6e-8"; types: {named()}'
            refuse(".tpu_type", resources.tpu_type, f"the nearest sizes: {near}" if near else usual)
        if type(resources.slice_count) is not int or resources.slice_count < 1:
            refuse(".slice_count", resources.slice_count, "a whole number >= 1")
    if resources.runtime_env is not None:
        _check_runtime_env(resources.runtime_env, refuse)


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _check_gpu(resources: GpuConfig, refuse: _Refuse) -> None:
    count, kind = resources.gpu_count, resources.accelerator_type
    if not _is_amount(count) or count == 0 or (count > 1 and count != int(count)):
        refuse(".gpu_count", count, "a whole number >= 1, or a fraction of one GPU")
    if kind is not None and not (isinstance(kind, str) and kind in ACCELERATORS):
        by_lower = {name.lower(): name for name in ACCELERATORS}
        near = nearest(str(kind).lower(), by_lower)
        refuse(".accelerator_type", kind, f"one of Ray's names, such as {by_lower[near[0]] if near else 'H100'!r}")


def _check_runtime_env(env: RuntimeEnv, refuse: _Refuse) -> None:
    if not isinstance(env, RuntimeEnv):
        refuse(".runtime_env", env, "a RuntimeEnv")
    if not isinstance(env.env_vars, Mapping):
        refuse(".runtime_env.env_vars", env.env_vars, 'texts by name, such as {"NAME": "value"}')
    for name, value in env.env_vars.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            refuse(".runtime_env.env_vars", name, "the name of a variable")
        if looks_secret(name):
            refuse(
                ".runtime_env.env_vars",
                name,
                "no secret: Ray writes these values to logs that everyone on a node can read. Pass it to the launch "
                f"instead: ray_run --env_vars {name}, or set {name} and MARIN_SFT_SECRETS={name} in the environment",
            )
        if not isinstance(value, str):
            refuse(f".runtime_env.env_vars[{name!r}]", type(value).__name__, "a string")
    if not isinstance(env.pip, list | tuple) or not all(isinstance(item, str) for item in env.pip):
        refuse(".runtime_env.pip", env.pip, 'a tuple of requirements, such as ("rouge-score==0.1.2",)')
    if env.working_dir is not None and "://" not in str(env.working_dir):
        refuse(
            ".runtime_env.working_dir",
            env.working_dir,
            "the URL of a zip file; to ship a local directory with the launch, use ray_run --working_dir",
        )
