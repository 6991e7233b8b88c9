"""Near-duplicates among many texts: MinHash with locality-sensitive hashing, then a comparison of each candidate.

Two texts are as similar as the share of their runs of 3 words that both have (the Jaccard index). The 128 minimal
hashes (Broder 1997) make 16 bands of 8. Texts that are equal in a band are candidates: of texts that are 80% similar,
95% are; of those that are 50% similar, 6%. Candidates are compared by their runs themselves: by all, up to 64 of them,
else by the 64 with the smallest hashes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from marin_sft.data.lint.words import Grams, Words, grams_of, scrambled

RUN = 3  # words
_BANDS, _ROWS = 16, 8
_KEPT = 64


class Sketches(NamedTuple):
    """What is kept of each text. bands: an array of a row each. runs: the smallest hashes of its runs, ascending; those
    of text i are `runs[bounds[i] : bounds[i + 1]]`."""

    bands: np.ndarray
    runs: np.ndarray
    bounds: np.ndarray

    @staticmethod
    def together(parts: list[Sketches]) -> Sketches:
        """All of `parts`, which is emptied to save memory."""
        counts = np.concatenate([np.diff(part.bounds) for part in parts])
        bands, runs = [part.bands for part in parts], [part.runs for part in parts]
        parts.clear()
        all_bands = np.concatenate(bands)
        bands.clear()
        return Sketches(all_bands, np.concatenate(runs), np.concatenate([[0], np.cumsum(counts)]))

    def of(self, text: int) -> np.ndarray:
        return self.runs[self.bounds[text] : self.bounds[text + 1]]


def sketches_of(words: Words) -> Sketches:
    runs = _distinct(grams_of(words, RUN))
    texts = len(words.bounds) - 1
    counts = np.bincount(runs.texts, minlength=texts)
    there = np.flatnonzero(counts)
    starts = (np.cumsum(counts) - counts)[there]
    hashes = runs.hashes.astype(np.uint32)
    bands = np.zeros((texts, _BANDS), np.uint32)
    for band in range(_BANDS if len(there) else 0):
        total = np.zeros(len(there), np.uint64)
        for row in range(_ROWS):
            factor, shift = _PERMUTATIONS[:, band * _ROWS + row]
            least = np.minimum.reduceat(hashes * factor + shift, starts)
            total = scrambled(total + least)
        bands[there, band] = total.astype(np.uint32)
    kept = runs.places < _KEPT
    bounds = np.concatenate([[0], np.cumsum(np.minimum(counts, _KEPT))])
    return Sketches(bands, hashes[kept], bounds)


def _distinct(grams: Grams) -> Grams:
    """The runs of each text once, ascending by the 32 bits that are kept; places: their ranks in it."""
    order = np.lexsort((grams.hashes & np.uint64(0xFFFFFFFF), grams.texts))
    hashes, texts = (grams.hashes & np.uint64(0xFFFFFFFF))[order], grams.texts[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (texts[1:] != texts[:-1])
    hashes, texts = hashes[new], texts[new]
    first = np.searchsorted(texts, texts)
    return Grams(hashes, texts, np.arange(len(texts)) - first)


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """The Jaccard index of two texts by their kept runs. If not all are kept, only those count that would be."""
    last = min((runs[-1] for runs in (one, other) if len(runs) == _KEPT), default=None)
    if last is not None:
        one, other = one[one <= last], other[other <= last]
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / max(1, len(one) + len(other) - both)


def near_earlier(sketches: Sketches, texts: np.ndarray, least: float, groups: np.ndarray) -> dict[int, dict[int, int]]:
    """For each of `texts` that is nearly an earlier one of them: by group, the first such text that was found.

    texts: indices, ascending. least: the similarity from which on. groups: of each text of `sketches`.
    """
    found: dict[int, dict[int, int]] = {}
    texts = texts[np.diff(sketches.bounds)[texts] > 0]
    for band in range(_BANDS):
        for text, other in _candidates(sketches.bands[texts, band], texts):
            group = int(groups[other])
            if group not in found.get(text, ()) and similarity(sketches.of(text), sketches.of(other)) >= least:
                found.setdefault(text, {})[group] = other
    return found


def _candidates(keys: np.ndarray, texts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of a text and an earlier one of an equal key: the first one, and the nearest two."""
    order = np.argsort(keys, kind="stable")
    keys, texts = keys[order], texts[order]
    first = np.searchsorted(keys, keys)
    here = np.arange(len(keys))
    for other in (first, here - 1, here - 2):
        (there,) = np.nonzero((other >= first) & (other < here))
        yield from zip(texts[there].tolist(), texts[other[there]].tolist(), strict=True)


def _permutations() -> np.ndarray:
    """Factors, which are odd, and shifts of as many permutations of 32 bits."""
    numbers = scrambled(np.arange(1, 2 * _BANDS * _ROWS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    found = numbers.astype(np.uint32).reshape(2, -1)
    found[0] |= np.uint32(1)
    return found


_PERMUTATIONS = _permutations()
