"""Which packed row comes when: a pure function of sizes, weights and a seed, with random access."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from marin_sft.data.batches.interleaving import Interleaving
from marin_sft.data.files import narrow
from marin_sft.errors import ConfigError


class Order:
    """The rows of a training run, place by place.

    rows: the number of rows of each component.
    stages: (first place, weights) in ascending order, the first at place 0. Weights count rows and are relative to
        each other.
    block_size: components come in random order within each block of this many rows of a stage. None: as evenly as
        possible, see `Interleaving`.
    shuffle: the order of a component's rows in each pass over them. True: a new random order. n: random within windows
        of n rows. False: as they are. Passes continue across stages.

    Raises:
        ConfigError: unusable weights, or a positive one for a component without rows.
    """

    def __init__(
        self,
        rows: Sequence[int],
        stages: Sequence[tuple[int, Sequence[float]]],
        seed: int,
        shuffle: bool | int = True,
        block_size: int | None = None,
    ) -> None:
        for start, weights in stages:
            _check(rows, start, weights)
        self.rows = np.asarray(rows, np.int64)
        self.seed, self.shuffle, self.block_size = seed, shuffle, block_size
        self._starts = np.array([start for start, _ in stages], np.int64)
        self._stages = [Interleaving(weights) for _, weights in stages]
        lengths = np.diff(self._starts).tolist()
        drawn = [stage.counts(length) for stage, length in zip(self._stages[:-1], lengths, strict=True)]
        self._drawn = np.cumsum([np.zeros(len(rows), np.int64), *drawn], axis=0)  # of each component before each stage
        self._permutation = lru_cache(maxsize=2 * len(rows))(_small_permutation)  # two passes meet in a batch

    def at(self, places: np.ndarray) -> np.ndarray:
        """int64[places, 2]: (component, row of it) at each place."""
        places = np.asarray(places, np.int64)
        order = np.empty((len(places), 2), np.int64)
        stages = np.searchsorted(self._starts, places, side="right") - 1
        for stage in np.unique(stages).tolist():
            which = np.flatnonzero(stages == stage)
            component, before = self._stages[stage].at(self._in_blocks(stage, places[which] - self._starts[stage]))
            draws = self._drawn[stage, component] + before
            order[which, 0], order[which, 1] = component, self._rows_of(component, draws)
        return order

    def counts(self, place: int) -> np.ndarray:
        """int64[components]: how many rows of each come before `place`."""
        stage = int(np.searchsorted(self._starts, place, side="right")) - 1
        local = place - int(self._starts[stage])
        whole = local if self.block_size is None else local - local % self.block_size
        rest, _ = self._stages[stage].at(self._in_blocks(stage, np.arange(whole, local)))
        in_stage = self._stages[stage].counts(whole) + np.bincount(rest, minlength=len(self.rows))
        return self._drawn[stage] + in_stage

    def first_exhausted(self) -> int:
        """The first place at which a row would repeat because its component has no other left."""

        def repeats(places: int) -> bool:
            return bool((self.counts(places) > self.rows).any())

        # With one more place than there are rows, a row must repeat.
        return bisect_left(range(int(self.rows.sum()) + 1), True, key=repeats) - 1

    def all_exhausted(self) -> int:
        """The first place before which every row of every component was used.

        Raises:
            ConfigError: the last stage leaves out a component with unused rows.
        """
        last = int(self._starts[-1])
        growing = self._stages[-1].counts(2**53) > 0
        short = np.flatnonzero(~growing & (self.counts(last) < self.rows))
        if len(short):
            raise ConfigError(
                f"stop_strategy='all_exhausted': the last stage of weights leaves out component {short[0]} with unseen "
                "rows; give it a weight there, or choose another stop_strategy"
            )
        end = last + 1
        while (self.counts(end) < self.rows).any():
            end *= 2
        return bisect_left(range(end), True, key=lambda p: bool((self.counts(p) >= self.rows).all()))

    def _in_blocks(self, stage: int, local: np.ndarray) -> np.ndarray:
        """Places of a stage, shuffled within its blocks. The last block ends with the stage."""
        if self.block_size is None:
            return local
        ends = self._starts[stage + 1] - self._starts[stage] if stage + 1 < len(self._starts) else math.inf
        shuffled = local.copy()
        for block in np.unique(local // self.block_size).tolist():
            first = block * self.block_size
            size = int(min(self.block_size, ends - first))
            which = (local >= first) & (local < first + size)
            shuffled[which] = first + permutation(size, self.seed, len(self.rows) + stage, block)[local[which] - first]
        return shuffled

    def _rows_of(self, component: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """int64: the row for each draw. Draws count from 0 for each component."""
        rows = self.rows[component]
        passes, found = np.divmod(draws, rows)
        if self.shuffle is False:
            return found
        window = rows if self.shuffle is True else np.minimum(self.shuffle, rows)
        firsts = found - found % window
        sizes = np.minimum(window, rows - firsts)
        keys = np.stack([sizes, component, passes, firsts], axis=1)
        for key in np.unique(keys, axis=0):
            which = (keys == key).all(axis=1)
            size, *rest = key.tolist()
            found[which] = firsts[which] + self._permutation(size, self.seed, *rest)[found[which] - firsts[which]]
        return found


def _check(rows: Sequence[int], start: int, weights: Sequence[float]) -> None:
    if not (all(math.isfinite(w) and w >= 0 for w in weights) and any(weights)):
        raise ConfigError(
            f"weights {list(weights)} from place {start}: expected finite numbers of at least 0, one above 0"
        )
    for component, (count, weight) in enumerate(zip(rows, weights, strict=True)):
        if weight > 0 and count == 0:
            raise ConfigError(f"component {component} has weight {weight} and no rows; expected rows, or weight 0")


def permutation(size: int, *key: int) -> np.ndarray:
    """int64[size]: 0 to `size` - 1 in an order set by `key`. The same with every version of NumPy."""
    state = np.zeros(1, np.uint64)
    for number in key:
        state = _mixed(state + np.uint64(number % 2**64))
    return np.argsort(_mixed(state + np.arange(size, dtype=np.uint64)), kind="stable")


def _small_permutation(size: int, *key: int) -> np.ndarray:
    return narrow(permutation(size, *key))


def _mixed(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014), applied to uint64 states after one increment.

    In place, as there may be many.
    """
    x += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return x
