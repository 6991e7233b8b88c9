"""What is computed in another way where the only device is a CPU: what is fast on accelerators is not there."""

from __future__ import annotations

from typing import Any

import jax

from marin_sft.training.cpu.linear import with_cpu_gradients
from marin_sft.training.cpu.unrolled import unrolled


def on_one_cpu() -> bool:
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def for_training_here(model: Any) -> Any:
    """The same weights and the same function of them, in the form that trains fastest on the devices here."""
    return with_cpu_gradients(unrolled(model)) if on_one_cpu() else model
