"""Batches of a table's rows: for training, and all rows once. How a batch looks is for a layout to say.

Any batch can be made on its own, so that a resumed run sees the same ones.
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
    """How some lines of a table become the arrays of a batch."""

    def batch(self, lines: np.ndarray, part: int, parts: int) -> B_co:
        """Of `lines` int64[batch_size], -1 for padding: the `part`-th of `parts` equal slices of the rows of tokens,
        which alone are read. Raises ConfigError when `parts` does not divide the rows."""
        ...


class TrainingBatches(Generic[B]):
    """The training batches of a mixture: deterministic, each one available by its step.

    `table`: the rows of the components that are trained. `cut_epochs`: see `Epochs.cut`; what lacks to a full batch is
    absent rows. `rows_per_epoch`: see `stop_strategy` of `LmDataConfig`. `num_steps`: how many batches there are; None:
    no end. `components`: all of the mixture, by their numbers in batches. Those who inherit set `_layout`.

    Raises:
        ConfigError: a stop strategy that has no end, or ends within the first batch.
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
        # Where data end with their epoch, no step before its end depends on how long it is.
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

        Depends on nothing but the arguments that these batches were made with; only the rows of the slice are read.

        Raises:
            ConfigError: `parts` does not divide the rows.
        """
        return self._layout.batch(self.lines(step), part, parts)

    def trained_tokens(self, step: int) -> int:
        """Of the whole batch number `step`; nothing of it is read."""
        return int(self._table.trained[self.lines(step)].sum())

    def lines(self, step: int, steps: int = 1) -> np.ndarray:
        """int64[steps * batch_size]: the lines of the table in `steps` batches from `step` on; -1 for an absent one."""
        return self._table.lines(self.places(step, steps))

    def places(self, step: int, steps: int = 1) -> np.ndarray:
        """int64[steps * batch_size, 2]: (component, example of it) for each place of `steps` batches from `step` on.

        Components are numbered as in the table. A batch that ends an epoch early has (-1, -1) at its end.
        """
        edges = self._epochs.before(np.arange(step, step + steps + 1))
        places = edges[:-1, None] + np.arange(self.batch_size)
        present = places < edges[1:, None]
        found = np.full((*places.shape, 2), -1, np.int64)
        found[present] = self._order.at(places[present])
        return found.reshape(-1, 2)

    def require_steps(self, steps: int) -> None:
        """Raises ConfigError when there are fewer batches."""
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
                f"{self.batch_size}; lower its weight or the batch size, or take another stop_strategy"
            )
        return rows - rows % self.batch_size  # whole batches: none needs a row twice


class EachOnce(Generic[B]):
    """All rows of a table, once, in order. The last batch is filled up with absent rows. Otherwise as above."""

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
