"""Texts -> token ids, and which of the tokens are trained.

As in transformers, a trained range of characters begins with the first token that holds its first character and ends
with the first token that holds its last one. A token that straddles an edge is trained.
"""

from __future__ import annotations

import functools
import itertools
import json
import unicodedata
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marin_sft.data.files import Json
from marin_sft.data.messages.examples import BadRow

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast

Range = tuple[int, int]
"""[start, end)"""


@dataclass(frozen=True)
class Noted:
    """What users should know about a document, although it is trained.

    counts: how often each of the `NOTES` in notes.py applies.
    unread_keys: keys of its row that the template does not use. Keys of messages are "messages.KEY".
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    unread_keys: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.counts or self.unread_keys)

    def __or__(self, other: Noted) -> Noted:
        """Combines the two sides of a pair."""
        counts = Counter(self.counts) + Counter(other.counts)
        return Noted(counts, self.unread_keys | other.unread_keys)


NOTHING = Noted()


@dataclass(frozen=True, eq=False)
class TokenRow:
    """`input_ids` int32[n]; `mask` uint8[n], 1 where the token is a target."""

    input_ids: np.ndarray
    mask: np.ndarray
    noted: Noted = NOTHING


class SpannedText(NamedTuple):
    """A text and what to do with it.

    trained: ranges of characters to train. None: all.
    escaped: ranges of special tokens to tokenize as ordinary text.
    """

    text: str
    trained: Sequence[Range] | None = None
    noted: Noted = NOTHING
    escaped: Sequence[Range] = ()


@dataclass(frozen=True, eq=False)
class Aligner:
    """Tokenizes texts as they are: adds no special tokens, cuts and pads nothing."""

    tokenizer: PreTrainedTokenizerFast

    def encode(self, texts: Sequence[SpannedText]) -> list[TokenRow]:
        """One row per text. The texts must be valid Unicode. The rows are views of two shared arrays."""
        backend = self.tokenizer.backend_tokenizer
        # A tokenizer.json, or an earlier call of transformers, may have set these.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = False
        encodings = backend.encode_batch_fast([spanned.text for spanned in texts], add_special_tokens=False)
        unsigned, bounds = array("I"), [0]  # of the rows, in tokens
        for encoding in encodings:
            unsigned.fromlist(encoding.ids)  # three times as fast as with NumPy
            bounds.append(len(unsigned))
        ids = np.frombuffer(unsigned, np.int32)
        mask = _mask(len(ids), self._trained(texts, ids, bounds))
        return [TokenRow(ids[start:end], mask[start:end]) for start, end in itertools.pairwise(bounds)]

    def escaped(self, row: TokenRow, spanned: SpannedText) -> TokenRow:
        """`row`, made of `spanned`, with ordinary tokens for the special ones that somebody wrote.

        Raises:
            BadRow: `special_tokens_in_text`, if ordinary tokens of the tokenizer do not give the same text.
        """
        backend = self.tokenizer.backend_tokenizer
        encoding = backend.encode(spanned.text, add_special_tokens=False)
        ids, mask, done = [], [], 0
        for start, _ in spanned.escaped:
            at = encoding.char_to_token(start)
            first, last = encoding.offsets[at]  # with the spaces that the token absorbs
            ordinary = self._ordinary(spanned.text[first:last])
            ids += [row.input_ids[done:at], np.array(ordinary, np.int32)]
            mask += [row.mask[done:at], np.full(len(ordinary), row.mask[at])]
            done = at + 1
        ids, mask = [*ids, row.input_ids[done:]], [*mask, row.mask[done:]]
        return replace(row, input_ids=np.concatenate(ids), mask=np.concatenate(mask))

    def _ordinary(self, text: str) -> list[int]:
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True  # to the library, this means: as ordinary text
        try:
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        finally:
            backend.encode_special_tokens = False
        if self.tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
            raise BadRow("special_tokens_in_text", f"the tokenizer has no ordinary tokens that give {text!r}")
        return ids

    def _trained(self, texts: Sequence[SpannedText], ids: np.ndarray, starts: Sequence[int]) -> np.ndarray:
        """The trained ranges of tokens, int64[ranges, 2]. The tokens of text i are starts[i] to starts[i + 1]."""
        found: list[Range] = []  # ranges of tokens
        places: list[int] = []  # of the first and last characters of ranges, in bytes
        ends = _byte_ends(self._byte_lengths, ids)
        behind = [0] * len(starts) if ends is None else np.append(0, ends)[starts].tolist()  # bytes before each text
        for index, (text, trained, *_) in enumerate(texts):
            if trained is None:
                found.append((starts[index], starts[index + 1]))
                continue
            ranges = [span for span in trained if span[0] < span[1]]
            if not ranges or starts[index] == starts[index + 1]:
                continue
            if ends is not None and _accounts_for(behind[index + 1] - behind[index], text):
                places += [behind[index] + at for at in _byte_places(text, [p for a, b in ranges for p in (a, b - 1)])]
            else:
                encoding = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
                tokens = [_by_offsets(encoding, start, end) for start, end in ranges]
                found += [(starts[index] + first, starts[index] + last + 1) for first, last in tokens]
        ranges_of_tokens = np.array(found, np.int64).reshape(-1, 2)
        if ends is None or not places:
            return ranges_of_tokens
        by_bytes = np.searchsorted(ends, places, side="right").reshape(-1, 2) + (0, 1)
        return np.concatenate([ranges_of_tokens, by_bytes])

    @functools.cached_property
    def _byte_lengths(self) -> np.ndarray | None:
        return byte_lengths(self.tokenizer, len(self.tokenizer))


def _mask(tokens: int, ranges: np.ndarray) -> np.ndarray:
    """uint8[tokens], 1 inside `ranges`, which may overlap."""
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    begun = np.bincount(ranges[:, 0], minlength=tokens + 1)
    ended = np.bincount(ranges[:, 1], minlength=tokens + 1)
    inside: np.ndarray = (begun - ended)[:tokens].cumsum() > 0
    return inside.astype(np.uint8)


def _byte_ends(lengths: np.ndarray | None, ids: np.ndarray) -> np.ndarray | None:
    """Where each token ends in the concatenated bytes of all texts, int64[tokens]. None if `lengths` is.

    The tokens of a byte-level tokenizer are bytes. To look up their lengths is cheaper than to compute offsets.
    """
    return None if lengths is None else lengths[ids].cumsum()


def _accounts_for(size: int, text: str) -> bool:
    """Whether tokens of `size` bytes hold every byte of `text`.

    A tokenizer may leave out bytes (spaces that a special token absorbs) but never adds any, so an equal number means
    that every byte is accounted for.
    """
    if text.isascii():
        return size == len(text)
    return unicodedata.is_normalized("NFC", text) and size == len(text.encode())


@functools.lru_cache(maxsize=4)
def byte_lengths(tokenizer: PreTrainedTokenizerFast, size: int) -> np.ndarray | None:
    """Bytes of each of the `size` tokens, int64[size]; None unless the tokenizer is byte-level."""
    backend = tokenizer.backend_tokenizer
    model = json.loads(backend.to_str())
    level = [part for part in _parts(model["pre_tokenizer"], "pretokenizers") if part["type"] == "ByteLevel"]
    changed = [part for part in _parts(model["normalizer"], "normalizers") if part["type"] != "NFC"]
    if len(level) != 1 or level[0]["add_prefix_space"] or changed:
        return None
    lengths = np.zeros(max(size, *backend.get_vocab(with_added_tokens=True).values()) + 1, np.int64)
    for token, id in backend.get_vocab(with_added_tokens=False).items():
        lengths[id] = len(token)  # each of its characters stands for a byte
    for token in model["added_tokens"]:
        lengths[token["id"]] = len(token["content"].encode())
    return lengths


def _parts(component: Json | None, key: str) -> list[Json]:
    if component is None:
        return []
    return component[key] if component["type"] == "Sequence" else [component]


def _byte_places(text: str, places: Sequence[int]) -> Sequence[int]:
    """The byte offsets in the UTF-8 of `text` of the characters at `places`, which ascend."""
    if text.isascii():
        return places
    found, behind, done = [], 0, 0
    for place in places:
        behind += len(text[done:place].encode()) if place >= done else -len(text[place:done].encode())
        done = place
        found.append(behind)
    return found


def _by_offsets(encoding: Encoding, start: int, end: int) -> Range:
    first, last = encoding.char_to_token(start), encoding.char_to_token(end - 1)
    if first is None or last is None:
        # A character is in no token, such as a space that the tokenizer drops: take the tokens inside the range.
        # (transformers skips the rest of the row, or trains all of it.)
        inside = [i for i, (a, b) in enumerate(encoding.offsets) if a < end and b > start]
        first, last = (inside[0], inside[-1]) if inside else (0, -1)
    return first, last
