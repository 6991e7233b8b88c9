import random

import pytest

from marin_sft.data.lint.words import codes_of, grams_of, script_names, scripts_of, words_of


def words(*texts):
    """The hashes of the words of each text."""
    found = words_of(codes_of(texts))
    return [found.hashes[start:stop].tolist() for start, stop in zip(found.bounds, found.bounds[1:], strict=False)]


def test_case_spaces_and_punctuation_do_not_count():
    one, other, third = words('Hello, "World"!', "hello\n\tworld", "hello world and more")
    assert one == other == third[:2] and len(third) == 4 and len(set(third)) == 4


@pytest.mark.parametrize(("one", "other"), [("2 + 2", "2 - 2"), ("a < b", "a > b"), ("1.5", "15"), ("x", "xx")])
def test_other_signs_count(one, other):
    assert len({tuple(found) for found in words(one, other)}) == 2


def test_ideographs_count_one_by_one():
    chinese, mixed, russian = words("你好。", "abc 你def", "Привет мир")
    assert [len(chinese), len(mixed), len(russian)] == [2, 3, 2]


def test_a_word_is_the_same_wherever_it_stands():
    filler = [" ".join("abcdefgh"[: 1 + n % 8] for _ in range(n)) for n in range(50)]
    found = words(*[f"{text} needle" for text in filler], "needle")
    assert {of[-1] for of in found} == {found[-1][0]}
    assert [len(of) for of in found] == [n + 1 for n in range(50)] + [1]


def test_random_words_do_not_collide():
    generator = random.Random(0)
    texts = {"".join(generator.choices("abc", k=generator.randint(1, 200))) for _ in range(3000)}
    assert len({one for (one,) in words(*texts)}) == len(texts)


def test_texts_without_words():
    assert words("", "...", " ") == [[], [], []] and words() == []
    assert len(grams_of(words_of(codes_of([])), 3).hashes) == 0


def test_runs_of_words_stay_within_their_text():
    found = words_of(codes_of(["a b c d", "a b", "", "b c d", "c d"]))
    grams = grams_of(found, 3)
    assert list(zip(grams.texts.tolist(), grams.places.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (3, 0),
        (4, 0),
    ]
    assert grams.hashes[1] == grams.hashes[3] and len(set(grams.hashes.tolist())) == 4
    assert grams_of(found, 3, short=False).texts.tolist() == [0, 0, 3]


def test_letters_by_script():
    texts = ["", "abc 123 é", "Привет abc", "漢字とカナ", "한국어", "1 + 2", "𝐀 ①"]
    counts = scripts_of(codes_of(texts))
    found = [{script_names()[i]: int(row[i]) for i in row.nonzero()[0]} for row in counts]
    assert found == [
        {},
        {"Latin": 4},
        {"Cyrillic": 6, "Latin": 3},
        {"Han and kana": 5},
        {"Hangul": 3},
        {},
        {},
    ]
