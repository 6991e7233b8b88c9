"""Says what to do when a device has no memory left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from marin_sft.errors import TrainingError

_MEASURES = (
    "fewer examples at once (a larger gradient_accumulation_steps with the same batch; "
    "per_device_train_batch_size = 1), gradient_checkpointing, LoRA (use_lora), shorter rows (seq_len; max_length), "
    "bfloat16 (precision = 'bf16'; bf16)"
)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raises TrainingError with what helps, instead of JAX's error that a device is out of memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TrainingError(f"out of device memory; what helps: {_MEASURES}. {str(error).splitlines()[0]}") from error
