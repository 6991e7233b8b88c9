"""How epochs are cut into batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

Steps = TypeVar("Steps", int, "np.ndarray")


@dataclass(frozen=True)
class Epochs:
    """How epochs of `examples` are cut into batches of `batch_size`.

    cut: each epoch ends with a batch of its remaining examples, as in transformers' Trainer. False: every batch is
        full, and continues with examples of the next epoch.
    """

    examples: int
    batch_size: int
    cut: bool

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.examples // self.batch_size)

    def before(self, step: Steps) -> Steps:
        """The number of examples that are trained before a step."""
        if not self.cut:
            return step * self.batch_size
        return step // self.steps * self.examples + step % self.steps * self.batch_size
