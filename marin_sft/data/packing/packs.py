"""Which documents share a row of fixed length."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from marin_sft.errors import DataError


@dataclass(frozen=True, eq=False)
class Packs:
    """Row r holds the documents `docs[offsets[r] : offsets[r + 1]]`.

    `offsets` int64[rows + 1], `docs` int64[documents]. Documents ascend within a row, and rows by their first document,
    so rows are roughly in the order of the documents.
    """

    offsets: np.ndarray
    docs: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.docs[self.offsets[row] : self.offsets[row + 1]]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """int64[rows]: the sum of `values` (one per document) over each row."""
        running = np.concatenate([[0], np.cumsum(values[self.docs], dtype=np.int64)])
        return running[self.offsets[1:]] - running[self.offsets[:-1]]


def pack(lengths: np.ndarray, capacity: int, most: int | None = None) -> Packs:
    """Best-fit decreasing: each document, longest first, goes into the fullest row that still has room for it.

    `lengths` int64[documents], 1 to `capacity` each. `most`: how many documents may share a row; None: any number.
    Every document appears exactly once. Deterministic. Linear in the number of documents: those of one length are
    placed together, in all rows with the same room at once.

    Raises:
        DataError: a length below 1 or above `capacity`.
    """
    lengths = np.asarray(lengths, np.int64)
    wrong = np.flatnonzero((lengths < 1) | (lengths > capacity))
    if len(wrong):
        raise DataError(f"document {wrong[0]} has length {lengths[wrong[0]]}; expected 1 to {capacity}")
    longest_first = np.argsort(-lengths, kind="stable")
    row_of = np.empty(len(lengths), np.int64)
    row_of[longest_first] = _best_fit(lengths[longest_first], capacity, math.inf if most is None else most)
    return _in_order(row_of)


def _in_order(row_of: np.ndarray) -> Packs:
    by_row = np.argsort(row_of, kind="stable")
    counts = np.bincount(row_of)
    firsts = by_row[np.cumsum(counts) - counts]
    rank = np.empty(len(firsts), np.int64)
    rank[np.argsort(firsts)] = np.arange(len(firsts))
    row_of = rank[row_of]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of))]).astype(np.int64)
    return Packs(offsets, np.argsort(row_of, kind="stable"))


def _best_fit(lengths: np.ndarray, capacity: int, most: float) -> np.ndarray:
    """int64[documents]: the row of each document; `lengths` decrease and fit.

    Strict best fit, in bulk. For documents of one length n, a row with the least sufficient room takes documents until
    its room is below n or it holds `most`: after each of them, it is still the fullest row with room. So all rows with
    room r and place for k documents take min(r // n, k) each. A bulk step empties one class of rows or uses up a
    length, and r mod n < r / 2. Hence, without `most`, there are at most (distinct lengths) x log2(capacity) steps.
    """
    row_of = np.empty(len(lengths), np.int64)
    with_room: dict[tuple[int, float], list[np.ndarray]] = {}  # (room left, documents it may still take) -> rows
    rooms: list[tuple[int, float]] = []  # the keys of with_room, sorted
    rows = placed = 0

    def give_back(room: int, places: float, some: np.ndarray) -> None:
        if room and places and len(some):
            if (room, places) not in with_room:
                insort(rooms, (room, places))
            with_room.setdefault((room, places), []).append(some)

    values, counts = np.unique(lengths, return_counts=True)
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:
            at = bisect_left(rooms, (length, 0))
            found = rooms.pop(at) if at < len(rooms) else None
            room, places = found or (capacity, most)
            each = int(min(room // length, places))
            if found:
                open_rows = np.concatenate(with_room.pop(found))
            else:
                open_rows = np.arange(rows, rows - (-count // each))
                rows += len(open_rows)
            used = open_rows[: -(-count // each)]
            taken = min(count, each * len(used))
            row_of[placed : placed + taken] = np.repeat(used, each)[:taken]
            placed, count = placed + taken, count - taken
            full, last = divmod(taken, each)
            give_back(room - each * length, places - each, used[:full])
            give_back(room - last * length, places - last, used[full:])
            give_back(room, places, open_rows[len(used) :])
    return row_of
