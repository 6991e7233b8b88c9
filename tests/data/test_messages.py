import pickle

import pytest

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages import BadRow, check_dropped, dialogue_of
from marin_sft.errors import DataError

FORMAT = ChatLmDatasetFormat()
USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT]},
        {"messages": [USER | {"name": None}, ASSISTANT], "prompt": None},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"instruction": "hi", "response": "ho"},
        {"instruction": "hi", "input": "", "output": "ho", "id": 3},
    ],
)
def test_one_dialogue_in_all_shapes(row):
    assert dialogue_of(row, FORMAT).messages == [USER, ASSISTANT]


def test_instruction_with_input_and_system():
    row = {"system": "s", "instruction": "add", "input": "1 2", "output": "3"}
    assert [m["content"] for m in dialogue_of(row, FORMAT).messages] == ["s", "add\n1 2", "3"]


def test_field_and_role_names():
    format = ChatLmDatasetFormat(messages_field="turns", input_field="human", output_field="gpt")
    row = {"turns": [{"role": "human", "content": "hi"}, {"role": "gpt", "content": "ho"}]}
    assert dialogue_of(row, format).messages == [USER, ASSISTANT]


def test_tool_call_without_content():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    row = {"messages": [USER, call], "tools": [{"name": "f"}], "chat_template_kwargs": {"date": "today"}}
    dialogue = dialogue_of(row, FORMAT)
    assert dialogue.messages[1]["content"] == ""
    assert dialogue.tools == [{"name": "f"}] and dialogue.chat_template_kwargs == {"date": "today"}


@pytest.mark.parametrize(
    "row, reason",
    [
        ([], "not_an_object"),
        ({"text": "hi"}, "unknown_format"),
        ({"messages": [USER], "prompt": [USER], "completion": [ASSISTANT]}, "ambiguous_format"),
        ({"instruction": "hi", "output": "a", "response": "b"}, "ambiguous_format"),
        ({"prompt": "hi", "completion": "ho"}, "bad_messages"),
        ({"prompt": [USER, ASSISTANT], "completion": [ASSISTANT]}, "unsupported_field"),
        ({"messages": []}, "bad_messages"),
        ({"messages": "hi"}, "bad_messages"),
        ({"messages": ["hi"]}, "bad_messages"),
        ({"messages": [{"content": "hi"}]}, "bad_messages"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "bad_messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "bad_messages"),
        ({"messages": [USER, ASSISTANT | {"train": False}]}, "unsupported_field"),
        ({"messages": [USER, ASSISTANT], "chat_template_kwargs": [1]}, "bad_messages"),
    ],
)
def test_bad_rows(row, reason):
    with pytest.raises(BadRow) as caught:
        dialogue_of(row, FORMAT)
    assert caught.value.reason == reason
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message


def test_check_dropped():
    check_dropped(100, {"a": 5}, 0.05, "paths")
    check_dropped(2, {"a": 1}, 1.0, "paths")
    for rows, dropped, share in ((100, {"a": 5, "b": 1}, 0.05), (2, {"a": 2}, 1.0), (0, {}, 1.0)):
        with pytest.raises(DataError, match=f"{sum(dropped.values())} of {rows} rows dropped"):
            check_dropped(rows, dropped, share, "paths")
