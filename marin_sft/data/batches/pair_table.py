"""The pairs of some components of a mixture, numbered through, and what of them lies in one piece in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from marin_sft.data.batches.packed_batches import open_cache
from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.mixture import read_mixture
from marin_sft.data.packing.pair_mixture import PairRows, read_pairs
from marin_sft.data.token_cache import TokenCache

PREFIX, CHOSEN, REJECTED = 0, 1, 2
"""Which branch a token is of, where both go on from a shared prefix. A branch by itself is all PREFIX."""

_TILE = 64  # rows of a multiple of this length suit accelerators


class Run(NamedTuple):
    """Tokens `start` to `end` of `tokens`. `side`: 0 chosen, 1 rejected, whose targets they hold."""

    tokens: TokenRow
    start: int
    end: int
    branch: int
    side: int


@dataclass(frozen=True, eq=False)
class _Component:
    rows: PairRows
    cache: TokenCache

    def read(self, pairs: np.ndarray, sides: np.ndarray) -> list[TokenRow]:
        """What is used of one side of each pair, all in one round of reads."""
        documents = self.cache.read(2 * self.rows.pairs[pairs] + sides)
        starts = self.rows.starts[pairs, sides].tolist()
        ends = (self.rows.starts[pairs, sides] + self.rows.lengths[pairs, sides]).tolist()
        return [
            TokenRow(row.input_ids[start:end], row.mask[start:end])
            for row, start, end in zip(documents, starts, ends, strict=True)
        ]


class PairTable:
    """The pairs of components `names` in `split`, those of each after those of the one before; -1 is an absent pair.

    A pair makes one or two units, each of which lies in one piece in a row: see `PairRows.units`.

    `components`: all of the mixture, sorted. `row_length`: tokens of a row that every unit in the mixture fits into.
    `pairs` int64[pairs + 1, 2]: (number of the component in `components`, number in its `PairRows`), or -1 twice.
    `trained` and `units` int64[pairs + 1, 2]: targets of both sides; tokens of the units, 0 for none. `tokens`
    int64[pairs + 1]: what both sides have together, each with its prompt, however much of it they share.

    Raises:
        ConfigError: a mixture of documents, or a component that `tokenized` lacks.
    """

    def __init__(
        self, mixture: str, tokenized: Mapping[str, str], names: Sequence[str], split: str, share_prefix: bool
    ) -> None:
        about = read_mixture(mixture)
        self.components = sorted(about["components"])
        rows = [read_pairs(mixture, name, split) for name in names]
        self.sizes = {name: len(some) for name, some in zip(names, rows, strict=True)}
        self.row_length = _row_length(about, share_prefix)
        self._opened = [
            _Component(some, open_cache(tokenized, name, some.source)) for name, some in zip(names, rows, strict=True)
        ]
        self._firsts = np.cumsum([0, *self.sizes.values()])[:-1]
        numbers = [np.full(size, self.components.index(name)) for name, size in self.sizes.items()]
        within = [np.arange(size) for size in self.sizes.values()]
        self.pairs = np.stack([np.concatenate([*some, [-1]]) for some in (numbers, within)], axis=1)
        absent = np.zeros((1, 2), np.int64)
        self.trained = np.concatenate([*(some.trained for some in rows), absent])
        self.units = np.concatenate([*(some.units(share_prefix) for some in rows), absent])
        self.tokens = np.concatenate([*(some.lengths.sum(axis=1) for some in rows), [0]])
        self._prompts = np.concatenate([some.prompts for some in rows])

    def lines(self, order: np.ndarray) -> np.ndarray:
        """The numbers here of int64[n, 2]: (number of a component in `names`, pair of it), or -1 twice."""
        return np.where(order[:, 0] < 0, -1, self._firsts[order[:, 0]] + order[:, 1])

    def runs(self, units: np.ndarray) -> list[list[Run]]:
        """The tokens of units, int64[units, 2]: (pair, 0 or 1); only they are read."""
        lines, which = units[:, 0], units[:, 1]
        whole = self.units[lines, 1] == 0  # both sides in one unit
        sides = np.concatenate([np.stack([lines, which], 1), np.stack([lines[whole], which[whole] + 1], 1)])
        tokens = self._read(sides[:, 0], sides[:, 1])
        rejected = iter(tokens[len(units) :])
        return [
            _shared(first, next(rejected), prompt - 1) if both else [Run(first, 0, len(first.mask), PREFIX, side)]
            for first, side, both, prompt in zip(
                tokens[: len(units)], which.tolist(), whole.tolist(), self._prompts[lines].tolist(), strict=True
            )
        ]

    def _read(self, lines: np.ndarray, sides: np.ndarray) -> list[TokenRow]:
        found: list[TokenRow] = [TokenRow(np.zeros(0, np.int32), np.zeros(0, np.uint8))] * len(lines)
        owners = np.searchsorted(self._firsts, lines, side="right") - 1
        for owner in np.unique(owners).tolist():
            at = np.flatnonzero(owners == owner)
            read = self._opened[owner].read(lines[at] - self._firsts[owner], sides[at])
            for i, row in zip(at.tolist(), read, strict=True):
                found[i] = row
        return found


def _shared(chosen: TokenRow, rejected: TokenRow, prefix: int) -> list[Run]:
    return [
        Run(chosen, 0, prefix, PREFIX, 0),
        Run(chosen, prefix, len(chosen.mask), CHOSEN, 0),
        Run(rejected, prefix, len(rejected.mask), REJECTED, 1),
    ]


def _row_length(about: Mapping[str, Any], share_prefix: bool) -> int:
    key = "longest_shared" if share_prefix else "longest"
    longest: int = max(counts[key] for splits in about["components"].values() for counts in splits.values())
    seq_len: int = about["seq_len"]
    rounded = -(-longest // _TILE) * _TILE
    return min(rounded, seq_len) if longest <= seq_len else rounded  # units with a shared prefix may be longer
