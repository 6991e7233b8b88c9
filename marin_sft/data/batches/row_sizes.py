"""How many rows batches of packed pieces need, and the few sizes that they get.

Each number of rows is another shape to compile, so there are few of them, chosen for little padding.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

MOST_SIZES = 4


def rows_needed(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """int64[batches]: how many rows `pack` makes of each line of `lengths`, int64[batches, pieces]; 0: no piece.

    The same best fit, longest piece first, but only counting: fast for very many small batches.
    """
    longest_first = -np.sort(-lengths, axis=1)
    return np.array([_best_fit(line, capacity) for line in longest_first.tolist()], np.int64)


def _best_fit(lengths: Sequence[int], capacity: int) -> int:
    rooms: list[int] = []  # what is left of the rows so far, ascending
    rows = 0
    for length in lengths:
        if not length:
            break
        at = bisect_left(rooms, length)
        if at == len(rooms):
            room, rows = capacity, rows + 1
        else:
            room = rooms.pop(at)
        if room > length:
            insort(rooms, room - length)
    return rows


def choose_sizes(needed: np.ndarray, multiple: int = 1, most: int = MOST_SIZES) -> tuple[int, ...]:
    """At most `most` numbers of rows, ascending, each a multiple of `multiple`, for batches that need `needed` rows.

    If each batch gets the smallest size that is enough, the sum over all batches is minimal. `needed`: int64[batches],
    at least one batch.
    """
    steps, counts = np.unique(np.maximum(-(-needed // multiple), 1), return_counts=True)
    values = steps * multiple
    before = np.append(0, np.cumsum(counts))  # batches that need less than values[i]
    # best[j]: the minimal sum for all batches that need at most values[j], if that is the largest size. With one more
    # size, batches from i on get values[j], and those before i what was best for them.
    best = values * before[1:]
    choices = []
    for _ in range(min(most, len(values)) - 1):
        shorter = np.append(0, best[:-1])
        sums = shorter + values[:, None] * (before[1:, None] - before[None, :-1])  # [j, i]
        sums[np.triu_indices(len(values), 1)] = np.iinfo(np.int64).max
        choices.append(sums.argmin(axis=1))
        best = sums.min(axis=1)
    last = len(values) - 1
    chosen = [last]
    for choice in reversed(choices):
        last = int(choice[last]) - 1
        if last < 0:
            break
        chosen.append(last)
    return tuple(values[chosen[::-1]].tolist())


def size_for(needed: int, sizes: Sequence[int], multiple: int = 1) -> int:
    """The smallest of `sizes` that is enough. If none is, the next multiple."""
    at = bisect_left(sizes, needed)
    return sizes[at] if at < len(sizes) else -(-needed // multiple) * multiple
