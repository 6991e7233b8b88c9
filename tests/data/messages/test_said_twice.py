"""A row that says one thing in two places: where they differ, to take one would lose the other without a word."""

import json

import pytest

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.canonical import canonical_row
from marin_sft.data.messages.examples import BadRow, Dialogue, Preference, Rated
from marin_sft.data.messages.reading import example_of

FORMAT = ChatLmDatasetFormat()
USER, GOOD, BAD = (
    {"role": "user", "content": "hi"},
    *({"role": "assistant", "content": text} for text in ("yes", "no")),
)
CALL = {"name": "f", "arguments": {"a": 1}}


def dialogue(**answer):
    return {"messages": [USER, {"role": "assistant", **answer}]}


def reason_of(row):
    with pytest.raises(BadRow) as caught:
        example_of(row, FORMAT)
    return caught.value.reason


@pytest.mark.parametrize(
    "row",
    [
        dialogue(content="a", value="b"),
        dialogue(content="", value="b"),
        dialogue(**{"content": "a", "from": "human"}),
        dialogue(content="a", tool_calls=[CALL], function_call={"name": "g", "arguments": "{}"}),
        dialogue(content=[{"type": "text", "text": "", "value": "b"}]),
        dialogue(content="a", reasoning_content="one", thinking="two"),
        {"prompt": "bye", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"question": "bye", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"messages": [{**USER, "content": "bye"}], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"history": [["q", "a"]], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"input_ids": [1, 2], "loss_mask": [0, 1]},
        {"prompt": "p", "completion": "c", "label": "bad"},
        {"prompt": "p", "completion": "c", "label": -1},
    ],
)
def test_what_differs_is_refused(row):
    assert reason_of(row) == "ambiguous_format"


@pytest.mark.parametrize(
    "row",
    [
        dialogue(content="a", value="a"),
        dialogue(content="a", value=None),
        dialogue(**{"content": "a", "from": "gpt"}),
        dialogue(content="a", tool_calls=[CALL], function_call={"name": "f", "arguments": '{"a": 1}'}),
        dialogue(content="a", tool_calls=[], function_call=CALL),
        dialogue(content="a", reasoning_content="one", reasoning=" one "),
        {"prompt": "Human: hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "hi ", "question": "another", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"messages": [USER, BAD], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_what_is_the_same_is_read(row):
    assert isinstance(example_of(row, FORMAT), Dialogue | Preference)


def test_arguments_beside_others_are_refused_unless_those_are_a_schema():
    assert reason_of(dialogue(tool_calls=[{**CALL, "parameters": {"b": 2}}])) == "bad_tool_call"
    read = example_of(dialogue(tool_calls=[{**CALL, "parameters": {"type": "object"}}]), FORMAT)
    assert read.messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}


@pytest.mark.parametrize(
    "call",
    [
        {"name": "f", "arguments": '{"a": null, "b": [1, null]}'},
        '{"name": "f", "arguments": {"a": null, "b": [1, null]}}',
        [{"function": {"name": "f", "arguments": '{"a": null, "b": [1, null]}'}}],
    ],
)
def test_nulls_in_json_strings_stay_on_every_way(call):
    """Directly, and through the row that `transform` writes."""
    tools = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {"default": None}}}])
    read = example_of({**dialogue(tool_calls=call), "tools": tools}, FORMAT)
    assert read.messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": None, "b": [1, None]}
    assert read.tools[0]["function"]["parameters"] == {"default": None}
    assert example_of(json.loads(json.dumps(canonical_row(read))), FORMAT) == read
    pair = Preference([USER], read.messages[1:], [BAD], read.tools)
    assert example_of(json.loads(json.dumps(canonical_row(pair))), FORMAT) == pair


def test_earlier_turns_are_read_wherever_a_prompt_is():
    earlier = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    row = {"prompt": "hi", "history": [["q", "a"]]}
    assert example_of({**row, "response": "yes"}, FORMAT).messages == [*earlier, USER, GOOD]
    pair = example_of({**row, "chosen": "yes", "rejected": "no"}, FORMAT)
    assert (pair.prompt, pair.chosen, pair.rejected) == ([*earlier, USER], [GOOD], [BAD])


def test_the_space_after_a_marker_is_no_part_of_the_answer():
    pair = example_of({"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " yes", "rejected": " no"}, FORMAT)
    assert (pair.prompt, pair.chosen, pair.rejected) == ([USER], [GOOD], [BAD])


@pytest.mark.parametrize("key, value", [("train", False), ("weight", 0), ("weight", 0.0)])
def test_rows_that_say_so_are_not_trained(key, value):
    assert reason_of({**dialogue(content="a"), key: value}) == "not_trained"
    assert isinstance(example_of({**dialogue(content="a"), key: 1}, FORMAT), Dialogue)


@pytest.mark.parametrize("flag", ["trainable", "loss"])
def test_flags_of_messages_under_other_names(flag):
    assert example_of(dialogue(content="a", **{flag: False}), FORMAT).messages[1]["train"] is False
    assert "train" not in example_of(dialogue(content="a", loss=2.5), FORMAT).messages[1]


def test_desirable_is_a_rating():
    row = {"prompt": "p", "completion": "c", "desirable": False}
    read = example_of(row, FORMAT)
    assert isinstance(read, Rated) and read.label is False
