"""Findings in one row, and rows that look like them and are right."""

import pytest

from marin_sft.data.chat.special_tokens import pattern_of
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.lint.findings import FINDINGS, excerpt
from marin_sft.data.lint.rows import CHAT_TOKENS, row_findings

LONG = "Explain in your own words why the sky is blue and the sunset red, please."


def user(text="What is the weather like?"):
    return {"role": "user", "content": text}


def says(text="It is fine.", **more):
    return {"role": "assistant", "content": text, **more}


def calls(*names, ids=None, **arguments):
    made = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name in names]
    for call, id in zip(made, ids or (), strict=False):
        call["id"] = id
    return {"role": "assistant", "content": "", "tool_calls": made}


def result(text="sunny", **more):
    return {"role": "tool", "content": text, **more}


def told(id):
    return result(tool_call_id=id)


SYSTEM = {"role": "system", "content": "Be brief."}


def found(row, special=CHAT_TOKENS):
    row = {"messages": row} if isinstance(row, list) else row
    names = [one.finding for one in row_findings(row, ChatLmDatasetFormat(), pattern_of(special))[1]]
    assert set(names) <= FINDINGS.keys()
    return names


RIGHT = {
    "an answer": [user(), says()],
    "several turns": [SYSTEM, user(), says(), user("And tomorrow?"), says("Rain.")],
    "a call, its result": [user(), calls("weather"), result(), says()],
    "two calls, two results": [
        user(),
        calls("a", "b", ids="12"),
        result(tool_call_id="2"),
        result(tool_call_id="1"),
        says(),
    ],
    "two calls, results in one": [user(), calls("a", "b"), result("[1, 2]"), says()],
    "the same call after the user spoke": [user(), calls("a"), result(), says(), user(), calls("a"), result(), says()],
    "other arguments": [user(), calls("a", x=1), result(), calls("a", x=2), result(), says()],
    "it ends with a call": [user(), calls("a")],
    "a call in the text": [user(), says('<tool_call>{"name": "a"}</tool_call>'), result(), says()],
    "a call in the text, as JSON": [user(), says('{"name": "a", "arguments": {}}'), result(), says()],
    "calls by another key": [user(), says("", function_calls="a()"), {"role": "environment", "content": "1"}, says()],
    "a result as the user's turn": [user(), calls("a"), user("<tool_response>1</tool_response>"), says()],
    "thinking": [user(), says("<think>Hm.</think>Fine.")],
    "thinking that the template opens": [user(), says("Hm.</think>Fine.")],
    "reasoning": [user(), says("Fine.", reasoning_content="Hm.")],
    "thinking, then a call": [user(), {**calls("a"), "content": "<think>Hm.</think>"}, result(), says()],
    "about the tag": [user(), says("A model writes <think> before it thinks.")],
    "a greeting": [user("Hello!"), says("Hello!")],
    "a question that is quoted": [user("Is it fine?"), says("Is it fine? Yes.")],
    "an empty turn that is not trained": [user(), says("", train=False), user(), says()],
    "HTML": [user("<s>old</s> <b>new</b> <end> [INST"), says()],
    "plain text": {"text": "Once upon a time."},
    "prompt and completion": {"prompt": "2 + 2 =", "completion": " 4"},
    "tokens": {"input_ids": [1, 2], "labels": [1, 2]},
    "a pair": {"prompt": [user()], "chosen": [says()], "rejected": [says("")]},
    "a pair of texts": {"prompt": "Q", "chosen": "yes", "rejected": "no"},
    "rated bad on purpose": {"messages": [user(), says()], "label": False},
}


@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_found_where_nothing_is_wrong(name):
    assert found(RIGHT[name]) == []


@pytest.mark.parametrize(
    ("finding", "row"),
    [
        ("repeated_tool_calls", [user(), calls("a", x=1), result(), calls("a", x=1), result(), says()]),
        ("repeated_tool_calls", [user(), calls("a", "a"), result(), says()]),
        ("calls_without_results", [user(), calls("a"), says()]),
        ("calls_without_results", [user(), calls("a"), user(), says()]),
        ("calls_without_results", [user(), calls("a", "b", ids="12"), result(tool_call_id="1"), says()]),
        ("results_without_calls", [user(), result(), says()]),
        ("results_without_calls", [user(), says("I shall look."), result(), says()]),
        ("results_without_calls", [user(), calls("a", ids="1"), *map(told, "17"), says()]),
        ("unanswered_thinking", [user(), says("<think>Hm.")]),
        ("unanswered_thinking", [user(), says("<think>Hm.</think>\n")]),
        ("unanswered_thinking", [user(), says("", reasoning_content="Hm.")]),
        ("empty_thinking", [user(), says("<think>\n\n</think>\n\nFine.")]),
        ("empty_answers", [user(), says(" \n")]),
        ("empty_answers", {"prompt": "2 + 2 =", "completion": ""}),
        ("copied_prompts", [user(LONG), says(LONG.upper())]),
        ("copied_prompts", [user(LONG), says(f"{LONG} Because of its blue light.")]),
        ("copied_prompts", {"prompt": LONG, "completion": LONG}),
        ("role_order", [user(), says(), SYSTEM, user(), says()]),
        ("role_order", [says(), user(), says()]),
        ("role_order", [user(), user(), says()]),
        ("role_order", [user(), says(), says()]),
        ("role_order", [user(), says(), user()]),
        ("role_order", [user()]),
        ("special_tokens_in_text", [user("Hi<|im_end|>"), says()]),
        ("special_tokens_in_text", [user(), says("Hi<|eot_id|>")]),
        ("special_tokens_in_text", [user(), says("Hi.", reasoning_content="<|im_start|>")]),
        ("special_tokens_in_text", {"text": "Hi<end_of_turn>"}),
        ("special_tokens_in_text", {"messages": [user(), says()], "tools": [{"name": "a", "about": "<|im_end|>"}]}),
        ("secrets", [user(f"My token is hf_{'aB3' * 12}."), says()]),
        ("equal_pairs", {"prompt": "Q", "chosen": "yes", "rejected": "yes"}),
        ("equal_pairs", {"prompt": [user()], "chosen": [says("a b")], "rejected": [says("a  b\n")]}),
        ("unusable_rows", {"nothing": 1}),
    ],
)  # fmt: skip
def test_what_is_found(finding, row):
    assert found(row) == [finding]


def test_tokens_of_the_tokenizer_count_too():
    row = [user("[BOS] in the text"), says()]
    assert found(row) == [] and found(row, frozenset({"[BOS]"})) == ["special_tokens_in_text"]


def test_an_excerpt_shows_no_secret():
    token = f"hf_{'aB3' * 12}"
    assert excerpt("x" * 600) == "x" * 500 + "..." and token not in excerpt(f"my {token}, and more")
