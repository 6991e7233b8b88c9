"""Which documents share a row of fixed length."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Literal

import numpy as np

from marin_sft.errors import DataError

OverLength = Literal["truncate", "drop", "raise"]


@dataclass(frozen=True, eq=False)
class Packs:
    """Row r holds the documents `docs[offsets[r] : offsets[r + 1]]`.

    `offsets` int64[rows + 1], `docs` int64[documents]; `truncated` and `dropped`: how many documents were over-long.
    """

    offsets: np.ndarray
    docs: np.ndarray
    truncated: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.docs[self.offsets[row] : self.offsets[row + 1]]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """int64[rows]: the sum of `values` (one per document) over each row."""
        running = np.concatenate([[0], np.cumsum(values[self.docs], dtype=np.int64)])
        return running[self.offsets[1:]] - running[self.offsets[:-1]]


def pack(lengths: np.ndarray, capacity: int, over_length: OverLength) -> Packs:
    """Best-fit decreasing: each document, longest first, goes into the fullest row that still has room for it.

    Linear in the number of documents: documents of one length are placed together, into all rows that have the same
    room at once. A document longer than `capacity` counts as `capacity` ("truncate"), is left out ("drop") or is an
    error ("raise"). Every other document appears exactly once. Deterministic.

    Raises:
        DataError: a length below 1, or an over-long document under "raise".
    """
    lengths, kept, truncated, dropped = _fitted(lengths, capacity, over_length)
    order = kept[np.argsort(-lengths[kept], kind="stable")]
    row_of = _best_fit(lengths[order], capacity)
    by_row = np.argsort(row_of, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of))]).astype(np.int64)
    return Packs(offsets, order[by_row], truncated, dropped)


def one_per_row(lengths: np.ndarray, capacity: int, over_length: OverLength) -> Packs:
    """No packing: a row for each document, in their order. Over-long ones and errors as in `pack`."""
    _, kept, truncated, dropped = _fitted(lengths, capacity, over_length)
    return Packs(np.arange(len(kept) + 1, dtype=np.int64), kept, truncated, dropped)


def _fitted(lengths: np.ndarray, capacity: int, over_length: OverLength) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Lengths cut to `capacity`, the documents to keep, and how many were truncated and dropped."""
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) and lengths.min() < 1:
        raise DataError(f"document {int(lengths.argmin())} has length {lengths.min()}; expected at least 1")
    over = lengths > capacity
    count = int(over.sum())
    if count and over_length == "raise":
        longest = int(lengths.argmax())
        raise DataError(
            f"{count} of {len(lengths)} documents are longer than {capacity} tokens (document {longest} has "
            f"{lengths[longest]}); raise seq_len, or set over_length to 'truncate' or 'drop'"
        )
    if over_length == "drop":
        return lengths, np.flatnonzero(~over), 0, count
    return np.minimum(lengths, capacity), np.arange(len(lengths), dtype=np.int64), count, 0


def _best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """int64[documents]: the row of each document; `lengths` decrease and fit.

    Strict best fit, in bulk: among documents of one length n, a row with the least sufficient room takes documents
    until its room is below n, because after each of them it is the fullest row that has room. So all rows with room r
    take r // n of them each. A bulk step empties one class of rows or uses up a length, and r mod n < r / 2, hence at
    most (distinct lengths) x log2(capacity) steps.
    """
    row_of = np.empty(len(lengths), np.int64)
    with_room: dict[int, list[np.ndarray]] = {}  # room left -> rows
    rooms: list[int] = []  # the keys of with_room, sorted
    rows = placed = 0

    def give_back(room: int, some: np.ndarray) -> None:
        if room and len(some):
            if room not in with_room:
                insort(rooms, room)
            with_room.setdefault(room, []).append(some)

    values, counts = np.unique(lengths, return_counts=True)
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:
            at = bisect_left(rooms, length)
            room = rooms.pop(at) if at < len(rooms) else capacity
            each = room // length
            if room in with_room:
                open_rows = np.concatenate(with_room.pop(room))
            else:
                open_rows = np.arange(rows, rows - (-count // each))
                rows += len(open_rows)
            used = open_rows[: -(-count // each)]
            taken = min(count, each * len(used))
            row_of[placed : placed + taken] = np.repeat(used, each)[:taken]
            placed, count = placed + taken, count - taken
            full, last = divmod(taken, each)
            give_back(room - each * length, used[:full])
            give_back(room - last * length, used[full:])
            give_back(room, open_rows[len(used) :])
    return row_of
