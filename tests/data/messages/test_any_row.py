"""Whatever the row: examples in normal form, or a BadRow; never another exception, and nothing good is changed."""

import copy
import json
import random
from collections import Counter

import pytest

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import BadRow, Dialogue, Preference, Rated, Segments, Text, TextPreference, Tokens
from marin_sft.data.messages.reading import examples_of
from marin_sft.data.messages.shapes import KEYS, SHAPES

USER, ASSISTANT, WORSE = ({"role": role, "content": role} for role in ("user", "assistant", "tool"))
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, "a"]}}}
CHAT = [
    {"role": "system", "content": "s"},
    USER,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    WORSE,
    ASSISTANT,
]
OTHER = [*CHAT[:4], ASSISTANT | {"content": "other", "train": True, "reasoning_content": "r"}]
SHAREGPT = [
    {"from": "human", "value": "u"},
    {"from": "function_call", "value": '{"name": "f"}'},
    {"from": "gpt", "value": "a"},
]
HH = "\n\nHuman: u\n\nAssistant: "
GOOD_ROWS = [
    {"messages": CHAT, "tools": [{"name": "f", "parameters": {}}], "chat_template_kwargs": {"k": 1}},
    {"conversations": SHAREGPT, "tools": "[]", "system": "s"},
    {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "value": "a"}], "loss_weight": 1.0}]},
    {"instruction": "q", "input": "i", "output": "a", "system": "s", "history": [["q", "a"]]},
    {"question": "q", "context": "c", "response": "a", "system_prompt": "s"},
    {"prompt": "p", "completion": "c"},
    {"prompt": CHAT[:4], "completion": [ASSISTANT]},
    {"prompt": "p", "response": "r"},
    {"input": "p", "output": "c"},
    {"text": "t"},
    {"segments": [{"text": "a", "label": True}, {"text": "b", "label": False}]},
    {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [1, 1, 1], "completion_mask": [0, 1, 1]},
    {"chosen": CHAT, "rejected": OTHER},
    {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER[4]]},
    {"prompt": "p", "chosen": "c", "rejected": "r"},
    {"chosen": HH + "c", "rejected": HH + "r"},
    {"chosen": "one two", "rejected": "one three"},
    {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[2], "rejected": {"from": "gpt", "value": "r"}},
    {"prompt": HH, "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}, {"answer": "c", "rank": 3}]},
    {"messages": CHAT, "label": True},
    {"prompt": "p", "completion": "c", "kto_tag": False},
]
FORMATS = [ChatLmDatasetFormat(), ChatLmDatasetFormat(default_system="s", drop_system=True)]
FORMATS += [ChatLmDatasetFormat(shape=shape.name) for shape in SHAPES]
INNER_KEYS = (
    "role",
    "from",
    "content",
    "value",
    "type",
    "text",
    "label",
    "name",
    "arguments",
    "function",
    "tool_calls",
)
INNER_KEYS += ("train", "weight", "answer", "rank", "reasoning_content", "tool_call_id", "function_call")
WORDS = (
    "",
    "user",
    "gpt",
    "assistant",
    "system",
    "text",
    "tool_call",
    "function_call",
    "[]",
    "{}",
    '{"name": "f"}',
    HH,
)
WORDS += ("\ud800", "é\u0000", "null", "NaN", "x y")


def some_value(chance, depth=0):
    kind = chance.randrange(8 if depth < 4 else 6)
    if kind < 3:
        return chance.choice(WORDS)
    if kind < 6:
        return chance.choice((None, True, False, 0, 1, -1, 2**40, 0.5, float("nan"), float("inf"), -100))
    size = chance.randrange(4)
    if kind == 6:
        return [some_value(chance, depth + 1) for _ in range(size)]
    keys = sorted(KEYS) if depth == 0 else INNER_KEYS
    return {chance.choice(keys): some_value(chance, depth + 1) for _ in range(size)}


def some_row(chance):
    return {chance.choice(sorted(KEYS)): some_value(chance, 1) for _ in range(chance.randrange(1, 5))}


def mutated(value, chance):
    """`value` with one place deep within replaced, removed, doubled or given another name."""
    if isinstance(value, dict | list) and value and chance.random() < 0.8:
        copied = copy.copy(value)
        key = chance.choice(list(copied)) if isinstance(copied, dict) else chance.randrange(len(copied))
        change = chance.randrange(8)
        if change == 0:
            del copied[key]
        elif change == 1 and isinstance(copied, list):
            copied.insert(key, copied[key])
        elif change == 1:
            copied[chance.choice((*INNER_KEYS, *sorted(KEYS)))] = copied[key]
        else:
            copied[key] = mutated(copied[key], chance)
        return copied
    return some_value(chance)


def check_turns(turns):
    assert isinstance(turns, list) and turns
    for turn in turns:
        assert isinstance(turn["role"], str) and isinstance(turn["content"], str) and None not in turn.values()
        assert json.loads(json.dumps(turn)) == turn
        assert isinstance(turn.get("train", True), bool)
        for call in turn.get("tool_calls", []):
            assert isinstance(call["function"]["name"], str) and isinstance(call["function"]["arguments"], dict)


def check(example):
    """The invariants that everything after `example_of` builds on."""
    match example:
        case Dialogue():
            check_turns(example.messages)
            assert example.tools is None or all(isinstance(tool, dict) for tool in example.tools)
            json.dumps([example.messages, example.tools, example.chat_template_kwargs], ensure_ascii=False).encode()
        case Preference():
            for turns in (example.prompt, example.chosen, example.rejected):
                check_turns(turns)
            assert example.chosen != example.rejected
        case Rated():
            check(example.dialogue)
            assert isinstance(example.label, bool)
        case Tokens():
            assert len(example.input_ids) == len(example.mask) > 0 and set(example.mask) <= {0, 1}
        case Segments():
            assert all(isinstance(text, str) and isinstance(label, bool) for text, label in example.pieces)
        case Text() | TextPreference():
            assert all(isinstance(text, str) and text.encode() is not None for text in vars(example).values())
        case _:
            raise AssertionError(example)


def read(row, format):
    """The examples, or the reason why there are none; the row is left as it was."""
    before = copy.deepcopy(row)
    try:
        examples = examples_of(row, format)
    except BadRow as bad:
        assert bad.reason.replace("_", "").isalpha() and bad.message and len(bad.message) < 3000
        return bad.reason
    finally:
        assert repr(row) == repr(before)
    assert examples
    for example in examples:
        check(example)
    return examples


def test_ten_thousand_rows_of_any_kind():
    chance = random.Random(0)
    outcomes = Counter()
    for number in range(10_000):
        if number % 10 == 0:
            row = some_value(chance)
        elif number % 10 < 4:
            row = some_row(chance)
        else:
            row = mutated(copy.deepcopy(chance.choice(GOOD_ROWS)), chance)
            if chance.random() < 0.3:
                row = mutated(row, chance)
        outcome = read(row, FORMATS[0] if number % 2 else chance.choice(FORMATS))
        outcomes[outcome if isinstance(outcome, str) else type(outcome[0]).__name__] += 1
    # The rows reach every kind of example, and every reason but that of the user's own function.
    assert {"Dialogue", "Preference", "Rated", "Tokens", "Segments", "Text", "TextPreference"} <= outcomes.keys()
    assert {
        "unknown_role",
        "null_content",
        "bad_content",
        "bad_tool_call",
        "bad_tools",
        "unsupported_field",
    } <= outcomes.keys()
    assert {"ambiguous_format", "unknown_format", "missing_key", "not_an_object", "invalid_unicode"} <= outcomes.keys()
    assert {"bad_pair", "identical_pair", "no_common_prompt", "no_assistant_turn", "bad_label"} <= outcomes.keys()
    assert {"bad_tokens", "bad_segments", "bad_text", "bad_messages", "empty_dialogue"} <= outcomes.keys()


@pytest.mark.parametrize("row", GOOD_ROWS)
def test_keys_that_no_shape_knows_and_null_keys_change_nothing(row):
    expected = read(row, FORMATS[0])
    assert not isinstance(expected, str), expected
    for key in sorted(KEYS - row.keys()):
        assert read({**row, key: None}, FORMATS[0]) == expected
    assert read({"id": 3, "score": 0.5, "metadata": {"a": None}, **row}, FORMATS[0]) == expected


@pytest.mark.parametrize("row", GOOD_ROWS)
def test_no_text_of_a_row_is_lost(row):
    """Each string that somebody says in a row is said in what is read from it."""
    told = json.dumps([vars(example) for example in read(row, FORMATS[0])], default=vars)
    for key, value in row.items():
        if isinstance(value, str) and key != "tools":
            spoken = value.replace("\n\nHuman:", " ").replace("\n\nAssistant:", " ")
            assert all(word in told for word in spoken.split())
        for turn in value if isinstance(value, list) and key != "chat_template_kwargs" else []:
            texts = [turn.get(k) for k in ("content", "value", "answer", "text")] if isinstance(turn, dict) else []
            assert all(json.dumps(text)[1:-1] in told for text in texts if isinstance(text, str) and text[:1] != "{")


@pytest.mark.parametrize("row", GOOD_ROWS)
def test_a_dialogue_in_normal_form_is_read_as_it_is(row):
    for example in read(row, FORMATS[0]):
        if isinstance(example, Dialogue):
            again = {"messages": example.messages, "tools": example.tools}
            again["chat_template_kwargs"] = example.chat_template_kwargs
        elif isinstance(example, Preference | TextPreference):
            again = vars(example)
        else:
            continue
        assert read(again, FORMATS[0]) == [example]
