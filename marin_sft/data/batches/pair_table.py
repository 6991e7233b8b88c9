"""The pairs of some components of a mixture, and the units of them that are contiguous in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from marin_sft.data.batches.table import Table
from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.files import Json, narrow
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.packing.pairs import PairRows

PREFIX, CHOSEN, REJECTED = 0, 1, 2
"""The branch of a token, if both branches share a prefix. A branch by itself is all PREFIX."""

_NO_TOKENS = TokenRow(np.zeros(0, np.int32), np.zeros(0, np.uint8))
_TILE = 64  # rows of a multiple of this length suit accelerators


class Run(NamedTuple):
    """Tokens `start` to `end` of `tokens`. `side`: whether its targets are of the chosen (0) or rejected (1) branch."""

    tokens: TokenRow
    start: int
    end: int
    branch: int
    side: int


class PairTable(Table[PairRows]):
    """Pairs, each of one or two units that are contiguous in a row: see `PairRows.units`.

    Attributes:
        row_length: tokens of a row that holds every unit of the mixture.
        units: [pairs + 1, 2], tokens of the units, 0 for none.
        tokens: [pairs + 1], tokens of both branches, each with its prompt, even if they share it.
    """

    def __init__(self, mixture: PackedMixture, names: Sequence[str], split: str, share_prefix: bool) -> None:
        super().__init__(mixture, PairRows, names, split)
        self.row_length = _row_length(mixture.about, share_prefix)
        self.units = self.column(lambda some: some.units(share_prefix))
        self.tokens = self.column(lambda some: narrow(some.lengths.sum(axis=1)))
        self._prompts = self.column(lambda some: some.prompts)

    def runs(self, units: np.ndarray) -> list[list[Run]]:
        """The tokens of units, int64[units, 2]: (pair, 0 or 1). Reads only these."""
        lines, which = units[:, 0], units[:, 1]
        whole = self.units[lines, 1] == 0  # both sides in one unit
        sides = np.concatenate([np.stack([lines, which], 1), np.stack([lines[whole], which[whole] + 1], 1)])
        tokens = self.read(
            sides[:, 0], lambda some, cache, numbers, at: some.read(cache, numbers, sides[at, 1]), absent=_NO_TOKENS
        )
        rejected = iter(tokens[len(units) :])
        return [
            _shared(first, next(rejected), prompt - 1) if both else [Run(first, 0, len(first.mask), PREFIX, side)]
            for first, side, both, prompt in zip(
                tokens[: len(units)], which.tolist(), whole.tolist(), self._prompts[lines].tolist(), strict=True
            )
        ]


def _shared(chosen: TokenRow, rejected: TokenRow, prefix: int) -> list[Run]:
    return [
        Run(chosen, 0, prefix, PREFIX, 0),
        Run(chosen, prefix, len(chosen.mask), CHOSEN, 0),
        Run(rejected, prefix, len(rejected.mask), REJECTED, 1),
    ]


def _row_length(about: Json, share_prefix: bool) -> int:
    key = "longest_shared" if share_prefix else "longest"
    longest: int = max(counts[key] for splits in about["components"].values() for counts in splits.values())
    seq_len: int = about["seq_len"]
    rounded = -(-longest // _TILE) * _TILE
    return min(rounded, seq_len) if longest <= seq_len else rounded  # units with a shared prefix may be longer
