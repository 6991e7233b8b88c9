"""Which examples each training step takes, and how many steps there are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from marin_sft.data.batches.order import Order
from marin_sft.data.mixture import read_mixture
from marin_sft.errors import ConfigError


class TrainingSteps:
    """The order of a mixture's examples (packed rows, or pairs), cut into batches of `batch_size`.

    `mixture`: the output of the mixture step. `sizes`: how many examples each training component has, by name.
    `rows_per_epoch`: examples in an epoch, see `stop_strategy` of `LmDataConfig`. `num_steps`: how many batches there
    are; None: no end.

    Raises:
        ConfigError: a stop strategy that has no end, or ends within the first batch.
    """

    def __init__(self, mixture: str, sizes: Mapping[str, int], batch_size: int, seed: int) -> None:
        ordering = read_mixture(mixture)["order"]
        names = training_components(mixture)
        caps = ordering["max_train_batches"]
        rows = [min(sizes[name], caps[name] * batch_size) if name in caps else sizes[name] for name in names]
        stages = [
            (stage["start_step"] * batch_size, [stage["share_of_rows"][name] for name in names])
            for stage in ordering["stages"]
        ]
        self._order = Order(rows, stages, seed, ordering["shuffle"], ordering["block_size"])
        self.batch_size = batch_size
        self.stop_strategy: str = ordering["stop_strategy"]
        self.rows_per_epoch = self._epoch()
        self.num_steps = None if self.stop_strategy == "restart" else -(-self.rows_per_epoch // batch_size)

    def _epoch(self) -> int:
        if self.stop_strategy == "restart":
            return int(self._order.rows.sum())
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

        Components are numbered as in `training_components`.
        """
        return self._order.at(np.arange(step * self.batch_size, (step + steps) * self.batch_size))


def check_batch_size(batch_size: int) -> None:
    """Raises ConfigError."""
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}; expected at least 1")


def training_components(mixture: str) -> list[str]:
    """The components with a weight above 0, sorted.

    Raises:
        ConfigError: there are none.
    """
    names = sorted(read_mixture(mixture)["order"]["stages"][0]["share_of_rows"])
    if not names:
        raise ConfigError(f"{mixture}: no component has a weight above 0; this mixture is for evaluation only")
    return names
