"""What is computed differently when the only device is a CPU, where the code for accelerators is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax

from marin_sft.training.cpu.linear import with_cpu_gradients
from marin_sft.training.cpu.unrolled import unrolled
from marin_sft.training.target import target

if TYPE_CHECKING:
    from levanter.models.lm_model import LmHeadModel


def on_one_cpu() -> bool:
    return target().platform == "cpu" and jax.device_count() == 1


def for_training_here(model: LmHeadModel) -> LmHeadModel:
    """The same weights and the same function, in the form that trains fastest on these devices."""
    return with_cpu_gradients(unrolled(model)) if on_one_cpu() else model
