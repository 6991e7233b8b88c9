import json

import pytest

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.reading import BadRow, dialogue_of
from marin_sft.data.messages.turns import _plain_turn, _turn

FORMAT = ChatLmDatasetFormat()
USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": [None, {"c": "d"}]}}}


def turn(message, format=FORMAT):
    """The first of the turns that `message` becomes in a dialogue."""
    return dialogue_of({"messages": [message, ASSISTANT]}, format).messages[0]


def reason_of(message, **row):
    with pytest.raises(BadRow) as caught:
        dialogue_of({"messages": [USER, message], **row}, FORMAT)
    return caught.value.reason


@pytest.mark.parametrize(
    "name, role",
    [
        *((name, "user") for name in ("human", "user")),
        *((name, "assistant") for name in ("gpt", "assistant", "model", "bot", "chatgpt")),
        *((name, "tool") for name in ("tool", "observation", "function_response")),
        ("system", "system"),
        ("developer", "developer"),
        ("environment", "environment"),
    ],
)
def test_role_names(name, role):
    assert turn({"from": name, "value": "x"}) == turn({"role": name, "content": "x"}) == {"role": role, "content": "x"}


def test_roles_of_the_user_go_before_the_usual_ones():
    format = ChatLmDatasetFormat(role_map={"gpt": "user", "critic": "critic"})
    assert turn({"role": "gpt", "content": "x"}, format)["role"] == "user"
    assert turn({"role": "critic", "content": "x"}, format)["role"] == "critic"


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {"function": {"name": "f", "arguments": json.dumps(CALL["function"]["arguments"])}, "id": None},
        {"name": "f", "arguments": CALL["function"]["arguments"] | {"e": None}},
        json.dumps({"name": "f", "arguments": json.dumps(CALL["function"]["arguments"])}),
    ],
)
def test_tool_calls(call):
    for message in (
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "assistant", "content": "", "tool_calls": [call], "function_call": None},
        {"role": "assistant", "content": None, "tool_calls": [], "function_call": call},
        {"from": "function_call", "value": call},
        {"role": "assistant", "content": [{"type": "tool_call", "value": call}]},
    ):
        read = turn(message)
        assert read == {"role": "assistant", "content": "", "tool_calls": [CALL]}
        assert list(read["tool_calls"][0]["function"]["arguments"]) == ["b", "a"]


@pytest.mark.parametrize("key", ["arguments", "parameters", "args", "input"])
@pytest.mark.parametrize("as_text", [False, True])
def test_arguments_of_calls_by_other_names(key, as_text):
    given = json.dumps({"city": "Paris"}) if as_text else {"city": "Paris"}
    expected = {"type": "function", "function": {"name": "f", "arguments": {"city": "Paris"}}}
    for call in (
        {"name": "f", key: given},
        {"type": "function", "function": {"name": "f", key: given}},
        {"type": "function", "function": {"name": "f"}, key: given},
    ):
        for message in (
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "assistant", "content": None, "tool_calls": [{"arguments": None, **call}]},
            {"from": "function_call", "value": json.dumps(call)},
        ):
            assert turn(message)["tool_calls"] == [expected]


def test_calls_that_may_have_other_arguments_than_those_read():
    def call(**more):
        return {"role": "assistant", "content": None, "tool_calls": [{"name": "f", **more}]}

    for wrong in (
        {"kwargs": {"x": 1}},
        {"arguments": {}, "parameters": {"x": 1}},
        {"args": {"x": 1}, "input": {"x": 2}},
        {"payload": '{"x": 1}'},
    ):
        assert reason_of(call(**wrong)) == "bad_tool_call"
    (read,) = turn(call(arguments={"x": 1}, parameters={"type": "object"}))["tool_calls"]
    assert read["function"] == {"name": "f", "parameters": {"type": "object"}, "arguments": {"x": 1}}
    assert turn(call(index=0, description="adds"))["tool_calls"][0]["function"]["arguments"] == {}


def test_a_call_keeps_its_id_and_the_nulls_that_its_author_wrote():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": null}'}}
    message = {"role": "assistant", "content": "thinking aloud", "tool_calls": [call]}
    read = turn(message)
    assert read["content"] == "thinking aloud" and read["tool_calls"][0]["id"] == "c1"
    assert read["tool_calls"][0]["function"]["arguments"] == {"x": None}
    for empty in ("", None, {}):
        call = {"name": "f", "arguments": empty}
        assert turn({"role": "assistant", "tool_calls": [call]})["tool_calls"][0]["function"]["arguments"] == {}
    answer = {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "f"}
    assert turn(answer | {"weight": None}) == answer


@pytest.mark.parametrize("as_text", [False, True])
def test_tools(as_text):
    function = {"name": "f", "description": "adds", "parameters": {"type": "object", "properties": {"b": {}, "a": {}}}}
    given = [function | {"strict": None}, {"type": "function", "function": function}]
    if as_text:
        given = json.dumps([function, given[1]])
    read = dialogue_of({"messages": [USER, ASSISTANT], "tools": given}, FORMAT).tools
    assert json.dumps(read) == json.dumps([{"type": "function", "function": function}] * 2)


def test_no_tools():
    for none in ("[]", "null", "", [], {}, None):
        assert dialogue_of({"messages": [USER, ASSISTANT], "tools": none}, FORMAT).tools is None


def test_chat_template_kwargs():
    row = {"messages": [USER, ASSISTANT], "chat_template_kwargs": {"enable_thinking": False, "date": None}}
    assert dialogue_of(row, FORMAT).chat_template_kwargs == {"enable_thinking": False}


def test_reasoning():
    for key in ("reasoning_content", "reasoning", "thinking"):
        assert turn(ASSISTANT | {key: "hm"}) == ASSISTANT | {key: "hm"}
    parts = [{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "ho", "text": None}]
    assert turn(ASSISTANT | {"content": parts}) == ASSISTANT | {"reasoning_content": "hm"}


def test_train_flags():
    for key in ("train", "loss_weight", "weight"):
        for flag in (True, False, 1, 0, 1.0, 0.0):
            assert turn(ASSISTANT | {key: flag})["train"] is bool(flag)
        assert "train" not in turn(ASSISTANT | {key: None})
        assert reason_of(ASSISTANT | {key: 0.5}) == "unsupported_field"
        assert reason_of(ASSISTANT | {key: "yes"}) == "unsupported_field"
    assert reason_of(ASSISTANT | {"train": True, "weight": 0}) == "unsupported_field"
    assert reason_of(ASSISTANT | {"train_detail": [{"begin_offset": 0}]}) == "unsupported_field"


def test_empty_texts_are_kept():
    assert turn({"role": "assistant", "content": ""}) == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    "message, reason",
    [
        ("hi", "bad_messages"),
        ({"content": "hi"}, "bad_messages"),
        ({"role": 3, "content": "hi"}, "bad_messages"),
        ({"role": "narrator", "content": "hi"}, "unknown_role"),
        ({"role": "User", "content": "hi"}, "unknown_role"),
        ({"role": "assistant", "content": None}, "null_content"),
        ({"role": "assistant"}, "null_content"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "null_content"),
        ({"role": "assistant", "content": 3}, "bad_content"),
        ({"role": "assistant", "content": {"text": "hi"}}, "bad_content"),
        ({"role": "user", "content": [{"type": "text"}]}, "bad_content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "bad_content"),
        ({"role": "user", "content": ["hi"]}, "bad_content"),
        ({"role": "user", "content": "\udc00"}, "invalid_unicode"),
        ({"role": "tool", "content": "3", "tool_call_id": 3}, "bad_messages"),
        ({"from": "function_call", "value": "f(x)"}, "bad_tool_call"),
        ({"from": "function_call", "value": '{"arguments": {}}'}, "bad_tool_call"),
        ({"from": "function_call", "value": None}, "bad_tool_call"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}, "bad_tool_call"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}, "bad_tool_call"),
        ({"role": "assistant", "tool_calls": [3]}, "bad_tool_call"),
    ],
)
def test_bad_messages(message, reason):
    assert reason_of(message) == reason


def test_errors_name_the_message():
    with pytest.raises(BadRow, match=r"messages\[1\] has the role 'narrator', expected one of \['user', 'human',"):
        dialogue_of({"messages": [USER, {"role": "narrator", "content": "x"}]}, FORMAT)
    with pytest.raises(
        BadRow, match=r"messages\[1\] \(user\) part 0 is of type 'image', expected an object of type 'text'"
    ):
        dialogue_of({"messages": [USER, {"role": "user", "content": [{"type": "image"}]}]}, FORMAT)
    with pytest.raises(BadRow, match=r"messages\[1\] \(assistant\).tool_calls: arguments of f is a list"):
        dialogue_of({"messages": [USER, ASSISTANT | {"tool_calls": [{"name": "f", "arguments": "[1]"}]}]}, FORMAT)


def test_bad_lists_and_tools():
    for messages, reason in (([], "empty_dialogue"), ("hi", "bad_messages"), (USER, "bad_messages")):
        with pytest.raises(BadRow) as caught:
            dialogue_of({"messages": messages}, FORMAT)
        assert caught.value.reason == reason
    deep = []
    for _ in range(200):
        deep = [deep]
    for tools in (
        {"name": "f"},
        ["f"],
        "{",
        "3",
        [{"name": "f", "x": deep}],
        f'[{{"x": {json.dumps(deep)}}}]',
        "[" * 9999,
    ):
        assert reason_of(ASSISTANT, tools=tools) == "bad_tools"


def test_drop_system_can_leave_nothing():
    with pytest.raises(BadRow, match="empty_dialogue: only system turns"):
        dialogue_of({"messages": [{"role": "system", "content": "x"}]}, ChatLmDatasetFormat(drop_system=True))


@pytest.mark.parametrize("content", ["hi", "", "\u2019", "\ud800", None, 5, [{"type": "text", "text": "a"}]])
@pytest.mark.parametrize("role", ["user", "gpt", "function_call", "nobody", "", None, 5])
@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value"), ("role", "value"), ("content", "name")])
def test_the_quick_way_for_plain_messages_says_the_same(keys, role, content):
    raw = dict(zip(keys, (role, content), strict=True))
    quick = _plain_turn(raw, FORMAT.roles)
    if quick is not None:
        assert quick == _turn(raw, FORMAT, "messages[0]")
    usual = keys[0] in ("role", "from") and keys[1] != "value" or keys == ("from", "value")
    assert (quick is not None) == (usual and role in ("user", "gpt") and content in ("hi", "", "\u2019"))
