"""Words of many texts at once, as hashes; and the scripts of their letters.

A word is a run of letters and digits, or one other sign, such as "+" or "<": "2 + 2" and "2 - 2" differ. Ideographs and
kana, which are written without spaces, count one by one. Case, spaces and . , ; : ! ? and quotes do not count.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_GAP, _IN_WORD, _ALONE = 0, 1, 2
_KNOWN = 0x32000  # code points in the tables; the rest are rare ideographs and private ones
_IGNORED = frozenset(".,;:!?'\"`…‘’“”„«»‹›。、，！？；：「」『』،؛؟।")
_ONE_BY_ONE = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_TOGETHER = {"CJK": "Han and kana", "HIRAGANA": "Han and kana", "KATAKANA": "Han and kana"}
_LETTERS = frozenset(("LETTER", "SYLLABLE", "SYLLABICS", "IDEOGRAPH"))
_STYLES = ("FULLWIDTH", "HALFWIDTH", "BLACK", "MODIFIER", "MASCULINE", "FEMININE")
_PERIOD = 64  # places in a word that have different factors; a power of 2


class Words(NamedTuple):
    """hashes: of all words, in order. bounds: those of text i are `hashes[bounds[i] : bounds[i + 1]]`."""

    hashes: np.ndarray
    bounds: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.bounds)


class Grams(NamedTuple):
    """Runs of n words. hashes: of each. texts: which text it is in. places: its first word, counted in that text."""

    hashes: np.ndarray
    texts: np.ndarray
    places: np.ndarray


class Codes(NamedTuple):
    """The characters of texts. bounds: as in `Words`; a space stands between two texts."""

    points: np.ndarray
    bounds: np.ndarray


def codes_of(texts: Sequence[str]) -> Codes:
    """Code points in lower case, with those outside the tables as one."""
    lower = [text.lower() for text in texts]
    joined = " ".join(lower) + " "
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    bounds = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) + 1 for text in lower], out=bounds[1:])
    return Codes(points, bounds)


def words_of(codes: Codes) -> Words:
    points, bounds = codes
    kind = _tables().kinds[np.minimum(points, _KNOWN)]
    inside = kind == _IN_WORD
    begins = kind == _ALONE
    begins[1:] |= inside[1:] & ~inside[:-1]
    begins[:1] |= inside[:1]
    starts = np.flatnonzero(begins)
    if not len(starts):
        return Words(np.zeros(0, np.uint64), np.zeros(len(bounds), np.int64))
    lengths = np.diff(starts, append=len(points))
    place = np.arange(starts[0], len(points)) - np.repeat(starts, lengths)
    mixed = (points[starts[0] :].astype(np.uint64) + np.uint64(1)) * _factors(_PERIOD, 11)[place & (_PERIOD - 1)]
    mixed[kind[starts[0] :] == _GAP] = 0
    return Words(scrambled(np.add.reduceat(mixed, starts - starts[0])), np.searchsorted(starts, bounds))


def grams_of(words: Words, n: int, short: bool = True) -> Grams:
    """All runs of n words within each text. short: a text with fewer words, and at least one, is one run itself."""
    hashes, bounds = words
    text_of = np.repeat(np.arange(len(bounds) - 1), words.counts)
    factors = _factors(n, 29)
    count = max(0, len(hashes) - n + 1)
    total = np.zeros(count, np.uint64)
    for k in range(n):
        total += hashes[k : k + count] * factors[k]
    first = np.flatnonzero(text_of[:count] == text_of[n - 1 :]) if count else np.zeros(0, np.int64)
    texts = text_of[first]
    found = Grams(scrambled(total[first]), texts, first - bounds[texts])
    if not short:
        return found
    few = np.flatnonzero((words.counts > 0) & (words.counts < n))
    lengths = words.counts[few]
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    weighted = hashes[np.repeat(bounds[few], lengths) + place] * factors[place]
    sums = np.add.reduceat(weighted, np.cumsum(lengths) - lengths) if len(few) else np.zeros(0, np.uint64)
    # Each text has either long runs or one short one.
    order = np.argsort(np.concatenate([found.texts, few]), kind="stable")
    return Grams(
        np.concatenate([found.hashes, scrambled(sums + np.uint64(1))])[order],
        np.concatenate([found.texts, few])[order],
        np.concatenate([found.places, np.zeros(len(few), np.int64)])[order],
    )


def scripts_of(codes: Codes) -> np.ndarray:
    """Letters of each text by script: an array of counts, with a column for each of `script_names`."""
    points, bounds = codes
    script = _tables().scripts[np.minimum(points, _KNOWN)]
    counts = np.zeros((len(bounds) - 1, len(script_names())), np.int64)
    if len(counts):
        for one in np.flatnonzero(np.bincount(script)):
            counts[:, one] = np.add.reduceat(script == one, bounds[:-1], dtype=np.int64)
    counts[:, 0] = 0
    return counts


def script_names() -> tuple[str, ...]:
    """Names of scripts as Unicode has them; the first is that of text without letters."""
    return _tables().names


def scrambled(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele and others, 2014): each bit depends on all."""
    values = values.astype(np.uint64)
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


@functools.cache
def _factors(count: int, seed: int) -> np.ndarray:
    """Odd numbers that look random."""
    return scrambled(np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)) | (
        np.uint64(1)
    )


class _Tables(NamedTuple):
    """By code point. kinds: _GAP, _IN_WORD or _ALONE. scripts: indices of `names`, 0 for all but letters."""

    kinds: np.ndarray
    scripts: np.ndarray
    names: tuple[str, ...]


@functools.cache
def _tables() -> _Tables:
    kinds, scripts = np.full(_KNOWN + 1, _ALONE, np.uint8), np.zeros(_KNOWN + 1, np.int16)
    names = {"no letters": 0}
    for point in range(_KNOWN):
        character = chr(point)
        category = unicodedata.category(character)
        if category[0] in "ZC" or character in _IGNORED:
            kinds[point] = _GAP
        elif category[0] in "LMN" or character == "_":
            words = unicodedata.name(character, "").replace("-", " ").split()
            name = next(iter(words), "")
            kinds[point] = _ALONE if name in _ONE_BY_ONE else _IN_WORD
            if category in ("Lu", "Ll", "Lt", "Lo") and _LETTERS.intersection(words) and name not in _STYLES:
                scripts[point] = names.setdefault(_TOGETHER.get(name, name.capitalize()), len(names))
    return _Tables(kinds, scripts, tuple(names))
