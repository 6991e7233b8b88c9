"""Batches of a table's rows, for training and for going through all once; what a batch looks like is a layout's.

Any batch can be made on its own, so that a resumed run sees the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from marin_sft.data.batches.prefetch import prefetched
from marin_sft.data.batches.table import Table
from marin_sft.data.batches.training_steps import TrainingSteps, check_batch_size

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


class Layout(Protocol[B_co]):
    """How some lines of a table become the arrays of a batch."""

    def batch(self, lines: np.ndarray, part: int, parts: int) -> B_co:
        """The `part`-th of `parts` equal slices of the rows of tokens, which alone are read, of `lines`
        int64[batch_size]; what is -1 is padding. Raises ConfigError when `parts` does not divide the rows."""
        ...


class TrainingBatches(TrainingSteps, Generic[B]):
    """The training batches of a mixture: deterministic, each one available by its step.

    `cut_epochs`, `rows_per_epoch`, `num_steps`: see `TrainingSteps`. What lacks to a full batch is absent rows.
    `components`: all of the mixture, by their numbers in batches. `_layout` is set by those who inherit.
    """

    _layout: Layout[B]

    def __init__(self, table: Table[Any], batch_size: int, seed: int, cut_epochs: bool) -> None:
        super().__init__(table.mixture.about["order"], table.sizes, batch_size, seed, cut_epochs)
        self.components = table.mixture.components
        self._table = table

    def lines(self, step: int, steps: int = 1) -> np.ndarray:
        """int64[steps * batch_size]: the lines of the table in `steps` batches from `step` on; -1 for an absent one."""
        return self._table.lines(self.places(step, steps))

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


class EachOnce(Generic[B]):
    """All rows of a table, once, in order. The last batch is filled up with absent rows. `_layout`: as above."""

    _layout: Layout[B]

    def __init__(self, table: Table[Any], batch_size: int) -> None:
        check_batch_size(batch_size)
        rows = sum(table.sizes.values())
        lines = np.arange(-(-rows // batch_size) * batch_size)
        lines[rows:] = -1
        self.components = table.mixture.components
        self._lines = lines.reshape(-1, batch_size)

    def __len__(self) -> int:
        return len(self._lines)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> B:
        """As `TrainingBatches.batch`."""
        return self._layout.batch(self._lines[step], part, parts)

    def __iter__(self) -> Iterator[B]:
        return prefetched(self.batch, range(len(self)))
