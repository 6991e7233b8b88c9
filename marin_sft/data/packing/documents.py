"""Rows of packed documents."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.files import Json
from marin_sft.data.packing.over_length import Pieces, pieces
from marin_sft.data.packing.packs import pack
from marin_sft.data.packing.rows import Rows
from marin_sft.data.packing.selection import Selection
from marin_sft.data.step_configs import MixtureConfig
from marin_sft.data.token_cache import TokenCache, trained_tokens
from marin_sft.data.tokenize import DOCUMENTS
from marin_sft.errors import DataError

_READ_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class PackedRows(Rows):
    """Row r holds the pieces `offsets[r]` to `offsets[r + 1]`. All arrays are int64.

    Piece i begins at token `starts[i]` of document `docs[i]` in the component's token cache of split `source`. It
    extends to the end of the document, but at most for seq_len tokens.
    """

    kind: ClassVar[str] = DOCUMENTS
    called: ClassVar[str] = "documents"
    rows_are: ClassVar[str] = "rows"
    card: ClassVar[str] = "Rows are packed to {seq_len} tokens."

    offsets: np.ndarray
    docs: np.ndarray
    starts: np.ndarray

    @classmethod
    def check(cls, config: MixtureConfig) -> None:
        """A mixture of documents has no limits of its own."""

    @classmethod
    def pack(cls, config: MixtureConfig, name: str, selection: Selection) -> tuple[PackedRows, Json]:
        chosen, seq_len, over_length = selection.chosen, config.seq_len, config.data.over_length
        try:
            some = pieces(selection.cache.lengths[chosen], seq_len, over_length)
        except DataError as error:
            raise DataError(f"{name}/{selection.source}: {error}") from error
        trained = _trained(selection, some)
        kept = trained > 0
        if not kept.any():
            raise DataError(
                f"{name}/{selection.source}: none of {len(chosen)} documents has a trained token within "
                f"seq_len={seq_len} (over_length={over_length!r}); raise seq_len"
            )
        if some.truncated:
            whole, left = int(selection.cache.lengths[chosen].sum()), int(some.lengths.sum())
            print(
                f"{name}/{selection.source}: {some.truncated:,} of {len(chosen):,} documents are longer than seq_len = "
                f"{seq_len} and are cut: {1 - left / whole:.1%} of the tokens are left out",
                file=sys.stderr,
            )
        docs, starts, lengths = chosen[some.docs[kept]], some.starts[kept], some.lengths[kept]
        policy = config.data.pack.get(name, True)
        packs = pack(lengths, seq_len, None if policy is True else int(policy or 1))
        rows = cls(selection.source, packs.sums(trained[kept]), packs.offsets, docs[packs.docs], starts[packs.docs])
        return rows, {
            "documents": int(np.count_nonzero(np.diff(docs, prepend=-1))),  # pieces of one follow each other
            "tokens": int(lengths.sum()),
            "truncated": some.truncated,
            "split": some.split,
            "dropped": {"over_length": some.dropped, "no_trained_token": int((~kept).sum())},
        }

    def read(self, cache: TokenCache, rows: np.ndarray, seq_len: int) -> list[list[TokenRow]]:
        """The pieces in each of `rows`, all in one round of reads."""
        firsts, ends = self.offsets[rows], self.offsets[rows + 1]
        which = np.concatenate([np.arange(a, b) for a, b in zip(firsts, ends, strict=True)])
        cut = (
            TokenRow(document.input_ids[start : start + seq_len], document.mask[start : start + seq_len])
            for document, start in zip(cache.read(self.docs[which]), self.starts[which].tolist(), strict=True)
        )
        return [list(itertools.islice(cut, count)) for count in (ends - firsts).tolist()]


def _trained(selection: Selection, some: Pieces) -> np.ndarray:
    """int64[pieces]: trained tokens of each piece. Reads only documents that are cut."""
    docs, cache = selection.chosen[some.docs], selection.cache
    trained: np.ndarray = cache.trained[docs].copy()
    cut = np.flatnonzero(some.lengths < cache.lengths[docs])
    for first in range(0, len(cut), _READ_AT_ONCE):
        which = cut[first : first + _READ_AT_ONCE]
        spans = zip(cache.read(docs[which]), some.starts[which], some.lengths[which], strict=True)
        trained[which] = [trained_tokens(row.mask[start : start + length]) for row, start, length in spans]
    return trained
