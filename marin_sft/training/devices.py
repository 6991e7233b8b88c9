"""The settings of the devices: number types, the mesh, and how memory is saved. Light: no JAX."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.execution.step import execution_only
from marin_sft.training.checks import require
from marin_sft.training.mesh import mesh_config
from marin_sft.training.precision import PrecisionSettings

# Levanter's and Haliax's names.
ATTENTION_BACKENDS = ("default", "nvte", "splash", "jax_flash", "vanilla")
CHECKPOINTING = ("offload", "recompute", "full", "save_all", "nested")


@dataclass(frozen=True, kw_only=True)
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

    gradient_checkpointing: bool | str = execution_only(default=True)
    """Recompute activations in the backward pass to save memory: True, False, or one of `CHECKPOINTING`."""

    attention_backend: str | None = execution_only(default=None)
    """One of `ATTENTION_BACKENDS`. None: the best for device and model."""

    def check_devices(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        self.check_precision()
        if self.mesh is not None:
            sequence = mesh_config(self.mesh).sequence
            vanilla = sequence == 1 or self.attention_backend in (None, "vanilla")
            require(self, "attention_backend", vanilla, f"None or 'vanilla' where mesh has sequence = {sequence}")
        remat = isinstance(self.gradient_checkpointing, bool) or self.gradient_checkpointing in CHECKPOINTING
        require(self, "gradient_checkpointing", remat, f"True, False, or one of {', '.join(CHECKPOINTING)}")
        known = self.attention_backend in (None, *ATTENTION_BACKENDS)
        require(self, "attention_backend", known, f"None, or one of {', '.join(ATTENTION_BACKENDS)}")
        micro = self.per_device_parallelism
        require(self, "per_device_parallelism", micro >= 1 or micro == -1, "at least 1, or -1")
        parts = self.gradient_accumulation_steps
        require(self, "gradient_accumulation_steps", parts is None or parts >= 1, "at least 1, or None")
        once = parts is None or micro == -1
        require(self, "gradient_accumulation_steps", once, f"None where per_device_parallelism = {micro}")

    def attention(self) -> str | None:
        """The backend to use. Only the plain one can split positions over devices."""
        splits = self.mesh is not None and mesh_config(self.mesh).sequence != 1
        return "vanilla" if splits else self.attention_backend
