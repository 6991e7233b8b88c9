"""Sketches against the Jaccard index itself, computed from sets of runs of words."""

import random

import numpy as np
import pytest

from marin_sft.data.lint.near import Sketches, near_earlier, similarity, sketches_of
from marin_sft.data.lint.words import codes_of, words_of

VOCABULARY = [f"word{n}" for n in range(2000)]


def sketches(texts):
    return sketches_of(words_of(codes_of(texts)))


def exact(one, other):
    """The Jaccard index of the runs of 3 words."""
    runs = [{tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))} for words in (one.split(), other.split())]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def changed(generator, text, changes):
    words = text.split()
    for _ in range(changes):
        words[generator.randrange(len(words))] = generator.choice(VOCABULARY)
    return " ".join(words)


def pairs(generator, count, length):
    """Texts, and as many that differ from them in more and more words."""
    ones = [" ".join(generator.choices(VOCABULARY, k=length)) for _ in range(count)]
    return ones, [changed(generator, one, n % 12) for n, one in enumerate(ones)]


def test_short_texts_are_compared_exactly():
    ones, others = pairs(random.Random(0), 200, 40)
    found = sketches(ones + others)
    for n, (one, other) in enumerate(zip(ones, others, strict=True)):
        assert similarity(found.of(n), found.of(n + 200)) == exact(one, other)


def test_long_texts_are_compared_by_a_sample():
    ones, others = pairs(random.Random(1), 200, 400)
    found = sketches(ones + others)
    truth = np.array([exact(one, other) for one, other in zip(ones, others, strict=True)])
    guess = np.array([similarity(found.of(n), found.of(n + 200)) for n in range(200)])
    assert abs((guess - truth).mean()) < 0.01, "unbiased"
    assert np.sqrt(((guess - truth) ** 2).mean()) < 0.05, "of 64 draws: sqrt(s (1 - s) / 64)"


@pytest.mark.parametrize("length", [12, 60, 300])
def test_pairs_that_are_found(length):
    ones, others = pairs(random.Random(2), 400, length)
    texts = ones + others
    found = near_earlier(sketches(texts), np.arange(800), 0.8, np.array([0] * 400 + [1] * 400))
    alike = {n + 400: exact(one, other) for n, (one, other) in enumerate(zip(ones, others, strict=True))}
    wanted = {n for n, share in alike.items() if share >= 0.9}
    assert len(wanted) > 20 and len(wanted & found.keys()) >= 0.98 * len(wanted)
    assert all(alike[n] >= (0.8 if length <= 60 else 0.7) and found[n] == {0: n - 400} for n in found)


def test_one_found_in_each_group():
    text = " ".join(VOCABULARY[:20])
    texts = [text, "something else altogether here", text + " x", text + " y", text + " x z"]
    found = near_earlier(sketches(texts), np.arange(5), 0.8, np.array([0, 0, 0, 1, 1]))
    assert found.keys() == {2, 3, 4}
    assert found[2] == {0: 0} and found[3].keys() == {0} and found[4].keys() == {0, 1} and found[4][1] == 3


def test_texts_left_out_are_not_compared():
    texts = [" ".join(VOCABULARY[:20])] * 3
    assert near_earlier(sketches(texts), np.array([1]), 0.8, np.zeros(3, int)) == {}


def test_empty_texts_are_not_alike():
    assert near_earlier(sketches(["", "", "..."]), np.arange(3), 0.8, np.zeros(3, int)) == {}


def test_parts_together_are_the_whole():
    texts = [" ".join(VOCABULARY[n : n + 30]) for n in range(7)] + [""]
    whole = sketches(texts)
    together = Sketches.together([sketches(texts[:3]), sketches([]), sketches(texts[3:])])
    for one, other in zip(whole, together, strict=True):
        assert np.array_equal(one, other)
