"""What to do with documents longer than a row of the mixture.

truncate    the first tokens that fit are kept
drop        the document is left out
split       the document is cut into consecutive pieces that fit. A later piece is trained without the prompt or turns
            before it, and its first token is not trained. Right for plain text, rarely for chats
raise       an error

Documents and pieces that keep no trained token are left out, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.data_configs import OverLength
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.token_cache import trained_tokens
from marin_sft.errors import DataError


@dataclass(frozen=True, eq=False)
class Pieces:
    """What is kept of some documents, in order, and how many were truncated, split or dropped.

    Piece i is `lengths[i]` tokens from `starts[i]` on of document `docs[i]`. The arrays are int64[pieces].
    """

    docs: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    truncated: int = 0
    split: int = 0
    dropped: int = 0


def pieces(lengths: np.ndarray, capacity: int, policy: OverLength) -> Pieces:
    """What `policy` keeps of documents with `lengths` tokens, int64[documents], in rows of `capacity` tokens.

    Raises:
        DataError: a document is too long, with "raise".
    """
    lengths = np.asarray(lengths, np.int64)
    docs = np.arange(len(lengths), dtype=np.int64)
    over = lengths > capacity
    count = int(over.sum())
    if policy == "raise" and count:
        longest = int(lengths.argmax())
        raise DataError(
            f"{count} of {len(lengths)} documents are longer than {capacity} tokens (document {longest} has "
            f"{lengths[longest]}); raise seq_len, or set over_length to 'truncate', 'drop' or 'split'"
        )
    if policy == "drop":
        kept = docs[~over]
        return Pieces(kept, np.zeros_like(kept), lengths[kept], dropped=count)
    if policy != "split":
        return Pieces(docs, np.zeros_like(docs), np.minimum(lengths, capacity), truncated=count)
    each = -(-lengths // capacity)
    docs = np.repeat(docs, each)
    first = np.cumsum(each) - each
    starts = (np.arange(len(docs)) - first[docs]) * capacity
    return Pieces(docs, starts, np.minimum(lengths[docs] - starts, capacity), split=count)


def fit(row: TokenRow, capacity: int, policy: OverLength) -> list[TokenRow]:
    """The parts of a document that a mixture with rows of `capacity` tokens trains: at least one.

    Raises:
        BadRow: `over_length`, with "drop" and "raise"; `no_trained_token`, if no piece keeps one.
    """
    length = len(row.input_ids)
    if length > capacity and policy in ("drop", "raise"):
        raise BadRow("over_length", f"{length} tokens, expected at most {capacity} (over_length={policy!r})")
    some = pieces(np.array([length]), capacity, policy)
    ends = some.starts + some.lengths
    cut = [TokenRow(row.input_ids[a:b], row.mask[a:b]) for a, b in zip(some.starts, ends, strict=True)]
    kept = [piece for piece in cut if trained_tokens(piece.mask)]
    if not kept:
        raise BadRow("no_trained_token", f"no trained token is left of {length} in rows of {capacity} tokens")
    return kept
