"""Batches of a table's rows: for training, and all rows once. A layout decides what a batch looks like.

Each batch can be made on its own, so a resumed run sees the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from marin_sft.data.batches.epochs import Epochs
from marin_sft.data.batches.order import Order
from marin_sft.data.batches.prefetch import prefetched
from marin_sft.data.batches.table import Table
from marin_sft.errors import ConfigError

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


class Layout(Protocol[B_co]):
    """Turns lines of a table into the arrays of a batch."""

    def batch(self, lines: np.ndarray, part: int, parts: int) -> B_co:
        """The `part`-th of `parts` equal slices of the rows of `lines`, int64[batch_size], -1 for padding. Reads only
        that slice. Raises ConfigError if `parts` does not divide the rows."""
        ...


class TrainingBatches(Generic[B]):
    """The training batches of a mixture: deterministic, each available by its step. Subclasses set `_layout`.

    Args:
        table: the rows of the components that are trained.
        cut_epochs: see `Epochs.cut`. Absent rows fill up the last batch of an epoch.

    Attributes:
        components: all components of the mixture, as batches number them.
        rows_per_epoch: see `stop_strategy` of `LmDataConfig`.
        num_steps: how many batches there are. None: no end.

    Raises:
        ConfigError: a stop strategy that never ends, or ends within the first batch.
    """

    _layout: Layout[B]

    def __init__(self, table: Table[Any], batch_size: int, seed: int, cut_epochs: bool) -> None:
        _check(batch_size)
        self.batch_size = batch_size
        self.components = table.mixture.components
        self._table = table
        ordering = table.mixture.about["order"]
        caps = ordering["max_train_batches"]
        rows = [min(size, caps[name] * batch_size) if name in caps else size for name, size in table.sizes.items()]
        self.stop_strategy: str = ordering["stop_strategy"]
        # If the data end after one epoch, no step depends on the length of that epoch.
        cut = cut_epochs and self.stop_strategy == "restart"
        before = Epochs(sum(rows), batch_size, cut).before
        stages = [
            (before(stage["start_step"]), [stage["share_of_rows"][name] for name in table.sizes])
            for stage in ordering["stages"]
        ]
        self._order = Order(rows, stages, seed, ordering["shuffle"], ordering["block_size"])
        self.rows_per_epoch = sum(rows) if self.stop_strategy == "restart" else self._epoch()
        self._epochs = Epochs(self.rows_per_epoch, batch_size, cut_epochs)
        self.num_steps = None if self.stop_strategy == "restart" else self._epochs.steps

    def batch(self, step: int, part: int = 0, parts: int = 1) -> B:
        """Batch number `step`, from 0: the `part`-th of `parts` equal slices of its rows.

        Depends only on the arguments of the constructor. Reads only the rows of the slice.

        Raises:
            ConfigError: `parts` does not divide the rows.
        """
        return self._layout.batch(self.lines(step), part, parts)

    def trained_tokens(self, step: int) -> int:
        """Of the whole batch number `step`; nothing of it is read."""
        return int(self._table.trained[self.lines(step)].sum())

    def lines(self, step: int, steps: int = 1) -> np.ndarray:
        """int64[steps * batch_size]: the lines of the table in `steps` batches from `step` on. -1: absent."""
        return self._table.lines(self.places(step, steps))

    def places(self, step: int, steps: int = 1) -> np.ndarray:
        """int64[steps * batch_size, 2]: (component, its example) for each place of `steps` batches from `step` on.

        Components are numbered as in the table. A batch at the end of a cut epoch is filled up with (-1, -1).
        """
        edges = self._epochs.before(np.arange(step, step + steps + 1))
        places = edges[:-1, None] + np.arange(self.batch_size)
        present = places < edges[1:, None]
        found = np.full((*places.shape, 2), -1, np.int64)
        found[present] = self._order.at(places[present])
        return found.reshape(-1, 2)

    def require_steps(self, steps: int) -> None:
        """Raises ConfigError if there are fewer batches."""
        if self.num_steps is not None and steps > self.num_steps:
            raise ConfigError(
                f"{steps} training steps, but stop_strategy={self.stop_strategy!r} ends the data after "
                f"{self.num_steps} (one epoch); train for num_train_epochs=1 or fewer steps, or use "
                "stop_strategy='restart'"
            )

    def _epoch(self) -> int:
        if self.stop_strategy == "all_exhausted":
            return self._order.all_exhausted()
        rows = self._order.first_exhausted()
        if rows < self.batch_size:
            raise ConfigError(
                f"stop_strategy='first_exhausted': a component runs out after {rows} rows, within the first batch of "
                f"{self.batch_size}; lower its weight or the batch size, or choose another stop_strategy"
            )
        return rows - rows % self.batch_size  # whole batches, so that no row repeats


class EachOnce(Generic[B]):
    """All rows of a table, once, in order. Absent rows fill up the last batch."""

    _layout: Layout[B]

    def __init__(self, table: Table[Any], batch_size: int) -> None:
        _check(batch_size)
        rows = sum(table.sizes.values())
        lines = np.arange(-(-rows // batch_size) * batch_size)
        lines[rows:] = -1
        self.components = table.mixture.components
        self._lines = lines.reshape(-1, batch_size)

    def __len__(self) -> int:
        return len(self._lines)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> B:
        return self._layout.batch(self._lines[step], part, parts)

    def __iter__(self) -> Iterator[B]:
        return prefetched(self.batch, range(len(self)))


def _check(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}; expected at least 1")
