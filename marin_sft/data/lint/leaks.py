"""Prompts of test sets in other rows, by runs of words that both have.

A row holds a test prompt if runs of 8 words that it shares with the prompt cover at least half of the prompt's words:
the rule by which Tülu 3 was decontaminated (Lambert and others 2024, section 3.2). They must also cover 13 words, the
length of GPT-3's runs (Brown and others 2020, appendix C), or all of a shorter prompt: else a template with short gaps,
such as "Give the opposite of each word: hot, near", is a prompt of its own with any filling. A prompt of fewer than 8
words counts if it is all that the user says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from marin_sft.data.lint.words import Words, codes_of, grams_of, words_of

_FEWEST = 13  # words that both have, unless the prompt has fewer


class Leak(NamedTuple):
    """A row's text, the test prompt in it, and the share of the prompt's words that the row has."""

    text: int
    prompt: int
    share: float


class TestPrompts(NamedTuple):
    """hashes: of all runs, ascending. prompts, places: which prompt each is in, and where. sizes: words of each prompt.

    run: how many words. known: by the last bits of a hash, whether it may be there; to look up is slower.
    """

    hashes: np.ndarray
    prompts: np.ndarray
    places: np.ndarray
    sizes: np.ndarray
    run: int
    known: np.ndarray


def index_of(texts: Sequence[str], run: int) -> TestPrompts:
    words = words_of(codes_of(texts))
    grams = grams_of(words, run)
    order = np.argsort(grams.hashes, kind="stable")
    known = np.zeros(1 << max(10, (16 * len(order)).bit_length()), bool)
    known[_last_bits(known, grams.hashes)] = True
    return TestPrompts(grams.hashes[order], grams.texts[order], grams.places[order], words.counts, run, known)


def leaks_in(index: TestPrompts, prompts: Words, others: Words, least: float) -> list[Leak]:
    """For each text, the test prompts that it holds at least the share `least` of, those it holds most of first.

    prompts, others: what the user says in each row, and its other texts.
    """
    covered: dict[int, dict[int, set[int]]] = {}
    for words, short in ((prompts, True), (others, False)):
        grams = grams_of(words, index.run, short)
        hit = np.flatnonzero(index.known[_last_bits(index.known, grams.hashes)])
        first, last = (np.searchsorted(index.hashes, grams.hashes[hit], side) for side in ("left", "right"))
        for text, start, stop in zip(grams.texts[hit].tolist(), first.tolist(), last.tolist(), strict=True):
            if start == stop:
                continue
            of_text = covered.setdefault(text, {})
            for at in range(start, stop):
                place = int(index.places[at])
                of_text.setdefault(int(index.prompts[at]), set()).update(range(place, place + index.run))
    return [leak for text, found in sorted(covered.items()) for leak in _enough(index, text, found, least)]


def _last_bits(known: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    return hashes & np.uint64(len(known) - 1)


def _enough(index: TestPrompts, text: int, covered: Mapping[int, set[int]], least: float) -> list[Leak]:
    """The test prompts with enough words covered, those with most of them first."""
    found = []
    for prompt, words in covered.items():
        size = int(index.sizes[prompt])
        count = min(size, len(words))
        if count >= max(least * size, min(size, _FEWEST)):
            found.append(Leak(text, prompt, count / size))
    return sorted(found, key=lambda leak: (-leak.share, leak.prompt))
