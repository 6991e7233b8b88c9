"""Which examples each training step takes, and how many steps there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from marin_sft.data.batches.order import Order
from marin_sft.errors import ConfigError

Steps = TypeVar("Steps", int, np.ndarray)


@dataclass(frozen=True)
class Epochs:
    """How epochs of so many `examples` are cut into batches of `batch_size`.

    `cut`: each epoch ends with a batch of the examples that are left of it, as with transformers' Trainer. False:
    every batch is full, and one that an epoch does not fill takes the rest from the next.
    """

    examples: int
    batch_size: int
    cut: bool

    @property
    def steps(self) -> int:
        """How many batches it takes to go through an epoch."""
        return -(-self.examples // self.batch_size)

    def before(self, step: Steps) -> Steps:
        """How many examples are trained before a step."""
        if not self.cut:
            return step * self.batch_size
        return step // self.steps * self.examples + step % self.steps * self.batch_size


class TrainingSteps:
    """The order of a mixture's examples (packed rows, or pairs), cut into batches of `batch_size`.

    `ordering`: the "order" of mixture.json. `sizes`: how many examples each training component has, by name.
    `cut_epochs`: see `Epochs.cut`. `rows_per_epoch`: examples in an epoch, see `stop_strategy` of `LmDataConfig`.
    `num_steps`: how many batches there are; None: no end.

    Raises:
        ConfigError: a stop strategy that has no end, or ends within the first batch.
    """

    def __init__(
        self, ordering: Mapping[str, Any], sizes: Mapping[str, int], batch_size: int, seed: int, cut_epochs: bool
    ) -> None:
        check_batch_size(batch_size)
        names, caps = list(sizes), ordering["max_train_batches"]
        rows = [min(sizes[name], caps[name] * batch_size) if name in caps else sizes[name] for name in names]
        self.batch_size = batch_size
        self.stop_strategy: str = ordering["stop_strategy"]
        # Where data end with their epoch, no step before its end depends on how long it is.
        cut = cut_epochs and self.stop_strategy == "restart"
        before = Epochs(sum(rows), batch_size, cut).before
        stages = [
            (before(stage["start_step"]), [stage["share_of_rows"][name] for name in names])
            for stage in ordering["stages"]
        ]
        self._order = Order(rows, stages, seed, ordering["shuffle"], ordering["block_size"])
        self.rows_per_epoch = sum(rows) if self.stop_strategy == "restart" else self._epoch()
        self._epochs = Epochs(self.rows_per_epoch, batch_size, cut_epochs)
        self.num_steps = None if self.stop_strategy == "restart" else self._epochs.steps

    def _epoch(self) -> int:
        if self.stop_strategy == "all_exhausted":
            return self._order.all_exhausted()
        rows = self._order.first_exhausted()
        if rows < self.batch_size:
            raise ConfigError(
                f"stop_strategy='first_exhausted': a component runs out after {rows} rows, within the first batch of "
                f"{self.batch_size}; lower its weight or the batch size, or take another stop_strategy"
            )
        return rows - rows % self.batch_size  # whole batches: none needs a row twice

    def require_steps(self, steps: int) -> None:
        """Raises ConfigError when there are fewer batches."""
        if self.num_steps is not None and steps > self.num_steps:
            raise ConfigError(
                f"{steps} training steps, but stop_strategy={self.stop_strategy!r} ends the data after "
                f"{self.num_steps} (one epoch); train for num_train_epochs=1 or fewer steps, or use "
                "stop_strategy='restart'"
            )

    def places(self, step: int, steps: int = 1) -> np.ndarray:
        """int64[steps * batch_size, 2]: (component, example of it) for each place of `steps` batches from `step` on.

        Components are numbered as in `sizes`. A batch that ends an epoch early has (-1, -1) at its end.
        """
        edges = self._epochs.before(np.arange(step, step + steps + 1))
        places = edges[:-1, None] + np.arange(self.batch_size)
        present = places < edges[1:, None]
        found = np.full((*places.shape, 2), -1, np.int64)
        found[present] = self._order.at(places[present])
        return found.reshape(-1, 2)


def check_batch_size(batch_size: int) -> None:
    """Raises ConfigError."""
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}; expected at least 1")
