import pytest

from marin_sft.data.adapters import (
    FormatAdapter,
    InputDatasetFormat,
    PreferenceTransformAdapter,
    TransformAdapter,
)
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.canonical import canonical_row
from marin_sft.data.messages.examples import (
    BadRow,
    Dialogue,
    Preference,
    Segments,
    Text,
    TextPreference,
    Tokens,
)
from marin_sft.data.messages.reading import examples_of
from marin_sft.errors import ConfigError

MULTI_TURN = InputDatasetFormat.SINGLE_COLUMN_MULTI_TURN
COLUMN = InputDatasetFormat.INSTRUCT_COLUMN_RESPONSE
MESSAGE = InputDatasetFormat.INSTRUCT_MSG_RESPONSE


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def on_or_off(row):
    return {"chat_template_kwargs": {"enable_thinking": row["reasoning"] == "on"}, "kind": row["reasoning"]}


def a_list(row):
    return [row]


def another_id(row):
    return {"id": 1}


QA = {"q": "2+2?", "a": "4"}
ASK = {"instruction_column": "q", "response_column": "a"}

ADAPTED = {
    "instruction and response": (TransformAdapter(**ASK), QA, {"messages": [user("2+2?"), assistant("4")]}),
    "the best of several answers": (
        TransformAdapter(**ASK, filter_on_key="rate", content_key="text"),
        {
            "q": "2+2?",
            "a": [
                {"text": "5", "rate": 0.1},
                {"text": "4", "rate": 0.9},
                {"text": "four", "rate": 0.9},
                {"text": "?", "rate": None},
                {"text": "!", "rate": float("nan")},
            ],
        },
        {"messages": [user("2+2?"), assistant("4")]},
    ),
    "the first of a column of answers": (
        TransformAdapter(COLUMN, **ASK, content_key="response"),
        {"q": "2+2?", "a": [{"response_model": "m", "response": "4"}, {"response_model": "n", "response": "5"}]},
        {"messages": [user("2+2?"), assistant("4")]},
    ),
    "a message and a response": (
        TransformAdapter(MESSAGE, **ASK),
        {"q": [user("2+2?")], "a": "4"},
        {"messages": [user("2+2?"), assistant("4")]},
    ),
    "a message with keys of its own": (
        TransformAdapter(MESSAGE, **ASK, role_key="who", user_value="human", content_key="said"),
        {"q": [{"who": "human", "said": "2+2?"}], "a": "4"},
        {"messages": [user("2+2?"), assistant("4")]},
    ),
    "messages": (
        TransformAdapter(MULTI_TURN),
        {"messages": [system("Be brief."), user("a"), assistant("b")], "other": 1},
        {"messages": [system("Be brief."), user("a"), assistant("b")]},
    ),
    "all names are the dataset's own": (
        TransformAdapter(
            MULTI_TURN,
            conversation_column="talk",
            role_key="from",
            content_key="value",
            user_value="h",
            assistant_value="g",
            system_value="s",
            tool_value="t",
        ),
        {"talk": [{"from": who, "value": who} for who in "shgt"]},
        {"messages": [system("s"), user("h"), assistant("g"), {"role": "tool", "content": "t"}]},
    ),
    "roles that change places": (
        TransformAdapter(MULTI_TURN, user_value="assistant", assistant_value="user"),
        {"messages": [assistant("I ask"), user("I answer")]},
        {"messages": [user("I ask"), assistant("I answer")]},
    ),
    "keys of messages stay, nulls go": (
        TransformAdapter(MULTI_TURN),
        {
            "messages": [
                {**user("weather?"), "language": "English", "toxic": False, "tool_calls": None},
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "a tool knows",
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"b": 1, "a": null}'}}],
                },
                {"role": "tool", "content": "sun", "tool_call_id": "1", "name": "f"},
                assistant("sun", train=True),
            ],
            "tools": '[{"type": "function", "function": {"name": "f"}}]',
            "chat_template_kwargs": {"enable_thinking": True, "unused": None},
        },
        {
            "messages": [
                {**user("weather?"), "language": "English", "toxic": False},
                assistant(
                    "",
                    reasoning_content="a tool knows",
                    tool_calls=[
                        {"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"b": 1, "a": null}'}}
                    ],
                ),
                {"role": "tool", "content": "sun", "tool_call_id": "1", "name": "f"},
                assistant("sun", train=True),
            ],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "chat_template_kwargs": {"enable_thinking": True},
        },
    ),
    "a system column": (
        TransformAdapter(**ASK, system_column="s"),
        {**QA, "s": "Be brief."},
        {"messages": [system("Be brief."), user("2+2?"), assistant("4")]},
    ),
    "a dialogue's own system turn goes before the column": (
        TransformAdapter(MULTI_TURN, system_column="s"),
        {"messages": [system("Mine."), user("a"), assistant("b")], "s": "Other."},
        {"messages": [system("Mine."), user("a"), assistant("b")]},
    ),
    "think tags are replaced": (
        TransformAdapter(**ASK),
        {"q": "<think>?", "a": "<think>x</think>4"},
        {"messages": [user("<|start_think|>?"), assistant("<|start_think|>x<|end_think|>4")]},
    ),
    "nothing is replaced": (
        TransformAdapter(**ASK, replacements={}),
        {"q": "?", "a": "<think>x</think>4"},
        {"messages": [user("?"), assistant("<think>x</think>4")]},
    ),
    "the longest replacement, once": (
        TransformAdapter(**ASK, replacements={"a": "b", "ab": "c", ".": "a"}),
        {"q": "ab.", "a": "a"},
        {"messages": [user("ca"), assistant("b")]},
    ),
    "columns under another name": (
        TransformAdapter(**ASK, metadata_remap={"level": "difficulty", "funcs": "tools", "absent": "x"}),
        {**QA, "level": 3, "funcs": [{"name": "f"}]},
        {
            "messages": [user("2+2?"), assistant("4")],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "difficulty": 3,
        },
    ),
    "extra keys from a function": (
        TransformAdapter(**ASK, extra_metadata_fn=on_or_off),
        {**QA, "reasoning": "on", "chat_template_kwargs": {"enable_thinking": False}},
        {"messages": [user("2+2?"), assistant("4")], "chat_template_kwargs": {"enable_thinking": True}, "kind": "on"},
    ),
    "two whole dialogues": (
        PreferenceTransformAdapter(),
        {"prompt": "a", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
        {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]},
    ),
    "two dialogues with names of their own": (
        PreferenceTransformAdapter("good", "bad", role_key="from", content_key="value"),
        {
            "good": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
            "bad": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "c"}],
        },
        {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]},
    ),
    "two texts after a prompt": (
        PreferenceTransformAdapter("good", "bad", prompt_column="question"),
        {"question": "a", "good": "b", "bad": "c"},
        {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]},
    ),
    "two texts after a dialogue": (
        PreferenceTransformAdapter(prompt_column="messages"),
        {"messages": [system("s"), user("a")], "chosen": "b", "rejected": "c", "tools": [{"name": "f"}]},
        {
            "prompt": [system("s"), user("a")],
            "chosen": [assistant("b")],
            "rejected": [assistant("c")],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
    ),
    "a usual shape": (
        FormatAdapter(),
        {"instruction": "Add.", "input": "2+2", "output": "4"},
        {"messages": [user("Add.\n2+2"), assistant("4")]},
    ),
    "a shape that is described": (
        FormatAdapter(ChatLmDatasetFormat(columns={"instruction": "q", "output": "a"})),
        QA,
        {"messages": [user("2+2?"), assistant("4")]},
    ),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_canonical(name):
    adapter, row, expected = ADAPTED[name]
    before = repr(row)
    assert adapter.canonical(row) == [expected]
    assert repr(row) == before, "a raw row is left as it is"


def test_one_row_may_hold_several_pairs():
    row = {
        "prompt": "\n\nHuman: a\n\nAssistant: ",
        "answers": [{"answer": answer, "rank": rank} for rank, answer in enumerate("xyz")],
    }
    found = FormatAdapter().canonical(row)
    assert [(pair["chosen"], pair["rejected"]) for pair in found] == [
        ([assistant("x")], [assistant("y")]),
        ([assistant("x")], [assistant("z")]),
    ]


REFUSED = {
    "no object": (TransformAdapter(**ASK), [1], "not_an_object"),
    "no such column": (TransformAdapter(**ASK), {"q": "x"}, "missing_column"),
    "a null": (TransformAdapter(**ASK), {"q": "x", "a": None}, "missing_value"),
    "a number for a text": (TransformAdapter(**ASK), {"q": "x", "a": 4}, "null_content|bad_content|bad_messages"),
    "no answers": (TransformAdapter(**ASK, filter_on_key="rate"), {"q": "x", "a": []}, "no_answer"),
    "answers that are no list": (TransformAdapter(**ASK, filter_on_key="rate"), {"q": "x", "a": "4"}, "no_answer"),
    "no score": (
        TransformAdapter(**ASK, filter_on_key="rate"),
        {"q": "x", "a": [{"rate": None, "content": "y"}]},
        "no_answer",
    ),
    "the best answer says nothing": (
        TransformAdapter(**ASK, filter_on_key="rate"),
        {"q": "x", "a": [{"rate": 1, "content": None}]},
        "missing_value",
    ),
    "an empty column of answers": (TransformAdapter(COLUMN, **ASK), {"q": "x", "a": []}, "no_answer"),
    "two messages": (TransformAdapter(MESSAGE, **ASK), {"q": [system("s"), user("x")], "a": "4"}, "several_instr"),
    "no message": (TransformAdapter(MESSAGE, **ASK), {"q": [], "a": "4"}, "several_instructions"),
    "messages that are none": (TransformAdapter(MULTI_TURN), {"messages": ["a", "b"]}, "bad_messages"),
    "an empty dialogue": (TransformAdapter(MULTI_TURN), {"messages": []}, "empty_dialogue"),
    "an unknown role": (TransformAdapter(MULTI_TURN), {"messages": [{"role": "gpt", "content": "x"}]}, "unknown_role"),
    "a role that is no text": (TransformAdapter(MULTI_TURN), {"messages": [{"role": ["x"]}]}, "unknown_role"),
    "no content": (TransformAdapter(MULTI_TURN), {"messages": [{"role": "user"}]}, "null_content"),
    "one side only": (PreferenceTransformAdapter(), {"chosen": [user("a"), assistant("b")]}, "missing_column"),
    "equal sides": (
        PreferenceTransformAdapter(),
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b")]},
        "identical_pair",
    ),
    "texts without a prompt": (PreferenceTransformAdapter(), {"chosen": "a", "rejected": "b"}, "bad_messages"),
    "no known shape": (FormatAdapter(), QA, "unknown_format"),
    "ids made elsewhere": (FormatAdapter(), {"input_ids": [1, 2]}, "no_canonical_row"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_rows(name):
    adapter, row, reason = REFUSED[name]
    with pytest.raises(BadRow, match=reason):
        adapter.canonical(row)


def test_config_errors():
    with pytest.raises(ConfigError, match="response_column is empty.*INSTRUCTION_RESPONSE"):
        TransformAdapter(instruction_column="q")
    with pytest.raises(ConfigError, match="conversation_column is empty"):
        TransformAdapter(MULTI_TURN, conversation_column="")
    with pytest.raises(ConfigError, match="filter_on_key='rate' needs"):
        TransformAdapter(MULTI_TURN, filter_on_key="rate")
    with pytest.raises(ConfigError, match="metadata_remap makes .'messages'"):
        TransformAdapter(**ASK, metadata_remap={"x": "messages"})
    with pytest.raises(ConfigError, match="extra_metadata_fn makes .'id'"):
        TransformAdapter(**ASK, extra_metadata_fn=another_id).canonical(QA)
    with pytest.raises(ConfigError, match="gave a list; expected a dict"):
        TransformAdapter(**ASK, extra_metadata_fn=a_list).canonical(QA)


EXAMPLES = [
    Dialogue([user("a"), assistant("b", train=False)], [{"type": "function", "function": {"name": "f"}}], {"x": 1}),
    Preference([system("s"), user("a")], [assistant("b")], [assistant("c")], None, {"x": 1}),
    Text("", "plain"),
    Text("a prompt", " and more"),
    TextPreference("a prompt", " better", " worse"),
    TextPreference("", "better", "worse"),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_a_canonical_row_reads_back_as_the_same_example(example):
    beside = {"id": "1", "source": "x", "metadata": {"text": "other", "prompt": "other"}}
    assert examples_of({**beside, **canonical_row(example)}, ChatLmDatasetFormat()) == [example]


@pytest.mark.parametrize("example", [Tokens([1], [1]), Segments([("a", True)])], ids=["Tokens", "Segments"])
def test_what_has_no_canonical_row(example):
    with pytest.raises(BadRow, match="no_canonical_row.*tokenize the files themselves"):
        canonical_row(example)
