"""How much memory devices have, and what to do when one has none left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from marin_sft.errors import TrainingError
from marin_sft.training import host_memory, processes, target

_FOR_DEVICES = (
    "out of device memory; what helps: fewer examples at once (a larger gradient_accumulation_steps with the same "
    "batch; per_device_train_batch_size = 1), gradient_checkpointing, LoRA (use_lora), shorter rows (seq_len; "
    "max_length), bfloat16 (precision = 'bf16'; bf16)"
)
_FOR_KERNELS = (
    "a kernel needs more shared memory than a core of this GPU has; what helps: precision = 'bf16' (bf16), which needs "
    "half as much, or attention_backend = 'jax_flash', which is slower but needs no such kernel"
)


def capacity() -> int | None:
    """Bytes of the smallest device of all processes. None: not known. All processes must call it."""
    if target.is_assumed():
        return target.target().memory
    found = processes.of_all(min(map(_capacity_of, jax.local_devices())))
    return min(found) or None


def _capacity_of(device: jax.Device) -> int:
    """0: not known."""
    if device.platform == "cpu":
        return (host_memory.capacity() or 0) // jax.local_device_count()
    return int((device.memory_stats() or {}).get("bytes_limit", 0))


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raises TrainingError with what helps, instead of JAX's error that a device is out of memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        # That of a GPU's core depends on the kernel, not on the batch.
        helps = _FOR_KERNELS if "shared memory" in str(error).lower() else _FOR_DEVICES
        raise TrainingError(f"{helps}. {str(error).splitlines()[0]}") from error
