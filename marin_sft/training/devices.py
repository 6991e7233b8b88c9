"""The settings of the devices: number types, the mesh, and how memory is saved. Light: no JAX."""

from __future__ import annotations

import os

from marin_sft.arguments import part_of_config
from marin_sft.errors import ConfigError
from marin_sft.execution.resources import CpuConfig, GpuConfig, Resources, check_resources, device_count
from marin_sft.execution.step import execution_only
from marin_sft.training.checks import require, require_one_of
from marin_sft.training.mesh import mesh_config
from marin_sft.training.precision import PrecisionSettings

# The rest are Levanter's and Haliax's names.
ATTENTION_BACKENDS = ("default", "tokamax", "nvte", "splash", "jax_flash", "vanilla")
RUNS_ON = {"tokamax": "gpu", "nvte": "gpu", "splash": "tpu"}
"""The platform of attention backends that have only one."""
_SAY_HOW_MANY = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES")  # devices there are
CHECKPOINTING = ("save_products", "save_attention", "offload", "recompute", "full", "save_all", "nested")


def micro_batches_of(
    batch_size: int, devices: int, per_device_parallelism: int, gradient_accumulation_steps: int | None
) -> int | str:
    """The micro-batches of a batch on so many data-parallel devices; or, in words, why there are none."""
    if gradient_accumulation_steps is not None:
        if batch_size % (devices * gradient_accumulation_steps):
            return (
                f"train_batch_size = {batch_size}: expected a multiple of {devices} data-parallel devices x "
                f"gradient_accumulation_steps = {gradient_accumulation_steps}; change one of the two"
            )
        return gradient_accumulation_steps
    micro_batch = batch_size if per_device_parallelism < 0 else min(per_device_parallelism * devices, batch_size)
    if batch_size % devices or batch_size % micro_batch or micro_batch % devices:
        return (
            f"train_batch_size = {batch_size}: expected a multiple of the {devices} data-parallel devices and of "
            f"per_device_parallelism x devices = {per_device_parallelism} x {devices}; change one of the two"
        )
    return batch_size // micro_batch


def devices_of(resources: Resources) -> int | None:
    """The devices of a step that runs on these; None where planning cannot know."""
    try:
        check_resources("", resources)
    except ConfigError:  # the plan refuses them, and names the step
        return None
    environment = {**os.environ, **(resources.runtime_env.env_vars if resources.runtime_env else {})}
    if any(name in environment for name in _SAY_HOW_MANY):
        return None
    part_of_one = isinstance(resources, GpuConfig) and resources.gpu_count < 1
    known = isinstance(resources, CpuConfig | GpuConfig) and not part_of_one
    return device_count(resources) if known else None


@part_of_config
class DeviceSettings(PrecisionSettings):
    """How the devices compute. Except for `precision`, settings change the result by rounding only."""

    mesh: object = execution_only(default=None)
    """How the devices share the work, see `mesh.mesh_config`. None: each has different rows, and a slice of the
    weights."""

    per_device_parallelism: int = execution_only(default=-1)
    """Examples of a micro-batch on each device. -1: no gradient accumulation. Dropout and NEFTune draw random numbers
    per micro-batch, so with them it acts like a seed."""

    gradient_accumulation_steps: int | None = execution_only(default=None)
    """Micro-batches that a batch is cut into, instead of `per_device_parallelism`. `train_batch_size` still counts the
    examples of a whole step. None: as `per_device_parallelism` says."""

    gradient_checkpointing: bool | str | None = execution_only(default=None)
    """What the backward pass recomputes to save memory: True for all of a layer, "save_attention" for all but
    attention, "save_products" for all but products with weights and attention, False for nothing. "offload": all of a
    layer, and what enters it waits in the host's memory. Or another of `CHECKPOINTING`. None: as little as memory
    allows."""

    attention_backend: str | None = execution_only(default=None)
    """One of `ATTENTION_BACKENDS`. None: the best for device and model."""

    def check_devices(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        self.check_precision()
        if self.mesh is not None:
            sequence = mesh_config(self.mesh).sequence
            splits = sequence == 1 or self.attention_backend != "nvte"
            require(self, "attention_backend", splits, f"not 'nvte' where mesh has sequence = {sequence}")
        given = self.gradient_checkpointing
        remat = given is None or isinstance(given, bool) or given in CHECKPOINTING
        require(self, "gradient_checkpointing", remat, f"True, False, None, or one of {', '.join(CHECKPOINTING)}")
        require_one_of(self, "attention_backend", ATTENTION_BACKENDS, or_none=True)
        micro = self.per_device_parallelism
        require(self, "per_device_parallelism", micro >= 1 or micro == -1, "at least 1, or -1")
        parts = self.gradient_accumulation_steps
        require(self, "gradient_accumulation_steps", parts is None or parts >= 1, "at least 1, or None")
        once = parts is None or micro == -1
        require(self, "gradient_accumulation_steps", once, f"None where per_device_parallelism = {micro}")
