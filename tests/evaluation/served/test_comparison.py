import re
from dataclasses import replace

import pytest

from marin_sft.evaluation.served.comparison import Answered, Served, first_difference, table

SAME = Answered(
    set="held_out",
    prompt="<user>a",
    server_prompt="<user>a",
    prompt_ids=[1, 5],
    server_prompt_ids=[1, 5],
    ids=[7, 8, 2],
    server_ids=[7, 8, 2],
    text="w7 w8 <end>",
    server_text="w7 w8 <end>",
    finish="stop",
    server_finish="stop",
    logprob_difference=1e-6,
)
OTHER = replace(SAME, server_ids=[7, 9, 2], server_text="w7 w9 <end>")


def compared(*answers: Answered, **changes: object) -> Served:
    sound = {
        "templates": {"of training": "t", "in the server": "t"},
        "added": ([1, 2], [1, 2]),
        "ends": ([2], [2, 3]),
        "lengths": (64, 64),
        "tie_gap": 1e-3,
        "logprob_tolerance": 0.01,
        "token": lambda id: f"w{id}",
    }
    return Served(answers=answers, **{**sound, **changes})


def differences(found: Served) -> dict[str, str]:
    return {check.name: check.difference for check in found.checks() if check.difference is not None}


def test_equal_things_do_not_differ():
    found = compared(SAME, replace(SAME, server_prompt=None))
    assert not differences(found)
    metrics = found.metrics()
    assert metrics["answers_equal"] == metrics["stopped"] == metrics["prompt_texts_equal"] == 2
    assert [line.split()[-1] for line in table(found)][:-1] == ["equal"] * 9


def test_a_near_tie_is_counted_and_is_no_difference():
    tie, other = replace(OTHER, gap=9e-4), replace(OTHER, gap=1.1e-3)
    found = compared(SAME, tie)
    assert not differences(found)
    assert (found.metrics()["answers_equal"], found.metrics()["near_ties"]) == (1, 1)
    found = compared(SAME, tie, other)
    said = "prompt 3 of set 'held_out': token 2 is 'w8' (id 8), and 'w9' (id 9) in the server; ours has 0.0011 more"
    assert differences(found)["answers"].startswith(said)
    assert found.metrics()["near_ties"] == 1 and found.metrics()["answers_differ"] == 1
    assert [answer.row(1e-3)["near_tie"] for answer in found.answers] == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        (
            {"templates": {"of training": "abc", "in the server": "abd"}},
            "template",
            "from character 3 on, ours is 'abc'",
        ),
        ({"templates": {"of training": "abc", "in the server": None}}, "template", "in the server .* has none"),
        ({"added": ([1, 2], [1])}, "added tokens", "token 2 is 'w2' .id 2., and missing in the server"),
        ({"ends": ([2, 4], [2])}, "end tokens", "'w4' .id 4. ends an answer in training, and .* names 'w2'"),
        ({"ends": ([2], [])}, "end tokens", "names nothing"),
        ({"lengths": (64, 256)}, "context length", "the model takes 64 tokens, the server 256"),
    ],
)
def test_each_kind_of_difference_is_named_alone(changes, name, message):
    found = differences(compared(SAME, **changes))
    assert list(found) == [name] and re.search(message, found[name])


def test_answers_that_end_otherwise_and_other_scores():
    longer = replace(SAME, server_ids=[7, 8, 2, 9], server_finish="length")
    assert "token 4 is missing, and 'w9'" in differences(compared(longer))["answers"]
    other_end = replace(SAME, server_finish="length")
    assert list(differences(compared(other_end))) == ["ends of answers"]
    scores = replace(SAME, logprob_difference=0.02)
    assert list(differences(compared(scores))) == ["log-probabilities"]
    assert not differences(compared(scores, logprob_tolerance=0.03))


def test_the_first_difference_of_two_sequences():
    assert first_difference([1, 2], [1, 2]) is None and first_difference([], []) is None
    assert first_difference([1, 2], [1, 3]) == 1 and first_difference([1], [1, 2]) == 1
