"""Names in messages: few and telling, however many there are."""

import pytest

from marin_sft.errors import GraphError
from marin_sft.execution.executor import ExecutorStep, this_output_path
from marin_sft.execution.graph import build_graph
from marin_sft.execution.selection import Selection, check_selection
from marin_sft.nearest import listed, nearest_text

MANY = [f"tokenized/part_{n:04}" for n in range(2000)]


def test_few_names_are_listed_in_their_order():
    assert listed([]) == "" and listed(["b", "a"], "a") == "b, a" and listed("abcd", most=3) == "a, b, c and 1 more"
    assert nearest_text("zzz", ["one", "two"]) == "; there are: one, two"
    assert nearest_text("tvo", ["one", "two", "two"]) == "; did you mean 'two'?"


def test_of_many_the_nearest_are_first():
    text = nearest_text("x_7", [*MANY, "x_987654"])
    assert text.startswith("; there are: x_987654, tokenized/part_") and text.endswith(" and 1,989 more")
    assert len(text) < 300


def step(name, *inputs):
    return ExecutorStep(name, print, {"inputs": list(inputs), "out": this_output_path()})


def test_a_message_about_many_steps_is_short():
    graph = build_graph([step(name) for name in MANY[:300]])
    for selection in (Selection(force_run=("zzz",)), Selection(run_only=("zzz",))):
        with pytest.raises(GraphError, match=r"; there are: \S+, .* and 288 more$") as raised:
            check_selection(graph, selection)
        assert len(str(raised.value)) < 400


def test_a_long_cycle_is_cut_in_the_middle():
    first = step(MANY[0])
    last = first
    for name in MANY[1:100]:
        last = step(name, last)
    first.config["inputs"].append(last)
    with pytest.raises(GraphError, match=r"^cycle: .* uses ... 95 more uses ") as raised:
        build_graph([last])
    assert len(str(raised.value)) < 300
