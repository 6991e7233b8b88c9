"""The rows of some components of a mixture, numbered consecutively."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.packing.rows import Rows
from marin_sft.data.token_cache import TokenCache

R = TypeVar("R", bound=Rows)
T = TypeVar("T")


class Table(Generic[R]):
    """The rows of components `names` in `split`, one line each, component after component. Line -1 is no row.

    Attributes:
        sizes: the number of rows of each component.
        trained: int64 or int32, [lines + 1, ...], see `Rows.trained`.

    Raises:
        ConfigError: the mixture is not of kind `rows`, or a component lacks the split or is not in `tokenized`.
    """

    def __init__(self, mixture: PackedMixture, rows: type[R], names: Sequence[str], split: str) -> None:
        self.mixture = mixture
        self._rows = [mixture.rows(rows, name, split, small=True) for name in names]
        self._caches = [mixture.cache(name, some.source) for name, some in zip(names, self._rows, strict=True)]
        self.sizes = {name: len(some) for name, some in zip(names, self._rows, strict=True)}
        self._firsts = np.cumsum([0, *self.sizes.values()])[:-1]
        self.trained = self.column(lambda some: some.trained)

    def column(self, of: Callable[[R], np.ndarray]) -> np.ndarray:
        """The values of `of` for each line. The last one, for line -1, is 0."""
        values = [of(some) for some in self._rows]
        return np.concatenate([*values, np.zeros_like(values[0][:1])])

    def numbers(self, lines: np.ndarray) -> np.ndarray:
        """int64[..., 2]: (number of the component in the mixture's `components`, its row) of each line, or -1 twice."""
        owners = np.searchsorted(self._firsts, lines, side="right") - 1
        components = np.array([self.mixture.components.index(name) for name in self.sizes], np.int64)
        numbers = np.stack([components[owners], lines - self._firsts[owners]], axis=-1)
        return np.where(lines[..., None] < 0, -1, numbers)

    def lines(self, places: np.ndarray) -> np.ndarray:
        """int64[n] from int64[n, 2]: (number of a component in `names`, its row), or -1 twice."""
        return np.where(places[:, 0] < 0, -1, self._firsts[places[:, 0]] + places[:, 1])

    def read(
        self, lines: np.ndarray, read: Callable[[R, TokenCache, np.ndarray, np.ndarray], Sequence[T]], absent: T
    ) -> list[T]:
        """What each of `lines` holds, `absent` for -1.

        `read` is given the rows of a component, its token cache, the numbers of some rows, and their places in `lines`.
        """
        found = [absent] * len(lines)
        owners = np.searchsorted(self._firsts, lines, side="right") - 1
        for owner in np.unique(owners[owners >= 0]).tolist():
            at = np.flatnonzero(owners == owner)
            some = read(self._rows[owner], self._caches[owner], lines[at] - self._firsts[owner], at)
            for i, one in zip(at.tolist(), some, strict=True):
                found[i] = one
        return found
