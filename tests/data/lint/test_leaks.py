import pytest

from marin_sft.data.lint.leaks import index_of, leaks_in
from marin_sft.data.lint.words import codes_of, words_of

QUESTION = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
SHORT = "What is the capital of France?"
TESTS = [
    QUESTION,
    SHORT,
    "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
    "Give the opposite of each word: hot, near, big.",
]


def found(prompt, other="", run=8, least=0.5, tests=None):
    """(number of the test prompt, share of its words) or None."""
    texts = [words_of(codes_of(["something before it", text, ""])) for text in (prompt, other)]
    leaks = leaks_in(index_of(tests or TESTS, run), *texts, least)
    assert all(leak.text == 1 for leak in leaks)
    return (leaks[0].prompt, round(leaks[0].share, 2)) if leaks else None


@pytest.mark.parametrize(
    ("prompt", "other", "expected"),
    [
        (QUESTION, "", (0, 1.0)),
        (f"Solve this. {QUESTION.upper()} How many in all?", "", (0, 1.0)),
        ("Write a question.", f"Here is one: {QUESTION}", (0, 1.0)),
        ("one two three four five six seven eight nine ten eleven twelve thirteen", "", (2, 0.81)),
        ("one two three four five six seven eight nine ten eleven twelve", "", None),
        ("one two three four five six seven 8 nine ten eleven twelve thirteen fourteen fifteen", "", None),
        ("Give the opposite of each word: hot, near, big.", "", (3, 1.0)),
        ("Give the opposite of each word: hot, near, thick.", "", None),
        (SHORT, "", (1, 1.0)),
        ("what is the capital of france", "", (1, 1.0)),
        (f"Tell me: {SHORT}", "", None),
        ("A question", SHORT, None),
        ("", "", None),
    ],
)
def test_prompts_of_a_test_set(prompt, other, expected):
    assert found(prompt, other) == expected


def test_the_length_of_runs_and_the_share_can_be_chosen():
    part = "Natalia sold clips to 48 of her friends in April, and then she"
    assert found(part) == (0, 0.65) and found(part, least=0.7) is None
    assert found(part, run=14) is None and found(part, run=13) == (0, 0.65)
    long = [*TESTS, " ".join(f"w{n}" for n in range(100))]
    quoted = " ".join(f"w{n}" for n in range(20, 33))
    assert found(quoted, tests=long) is None and found(quoted, run=13, least=0, tests=long) == (4, 0.13)


def test_words_in_both_count_once():
    part = "one two three four five six seven eight nine ten eleven twelve. "
    assert found(part * 3, part) is None
