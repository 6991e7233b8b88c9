"""Real files, each in the shape in which it is published. Which shape was tried on which file:

alpaca_en_demo.json (Alpaca), gsm8k_test.jsonl (question / answer), glaive_toolcall_en_demo.json (ShareGPT with tools,
function_call and observation), dpo_en_demo.json (ShareGPT and a pair of single messages).
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import Dialogue, Preference
from marin_sft.data.messages.reading import dialogue_of, example_of

DATA = Path(__file__).parents[4] / "shared/data"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the real files are not shipped")
FORMAT = ChatLmDatasetFormat()


def rows_of(name):
    text = (DATA / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)


def turns(*said):
    return [{"role": role, "content": content} for role, content in zip(("user", "assistant"), said, strict=True)]


def test_alpaca():
    rows = rows_of("alpaca_en_demo.json")
    expected = [
        Dialogue(turns(row["instruction"] + ("\n" + row["input"] if row["input"] else ""), row["output"]))
        for row in rows
    ]
    assert len(rows) == 999 and sum(bool(row["input"]) for row in rows) == 412
    for format in (FORMAT, ChatLmDatasetFormat(shape="alpaca")):
        assert [example_of(row, format) for row in rows] == expected


def test_gsm8k():
    rows = rows_of("gsm8k_test.jsonl")
    expected = [Dialogue(turns(row["question"], row["answer"])) for row in rows]
    assert len(rows) == 1319
    for format in (FORMAT, ChatLmDatasetFormat(columns={"instruction": "question", "output": "answer"})):
        assert [example_of(row, format) for row in rows] == expected


def test_glaive():
    rows = rows_of("glaive_toolcall_en_demo.json")
    dialogues = [dialogue_of(row, FORMAT) for row in rows]
    said = [turn for dialogue in dialogues for turn in dialogue.messages]
    assert len(dialogues) == 300
    assert Counter(turn["role"] for turn in said) == {"user": 746, "assistant": 746 + 211, "tool": 211}
    calls = [call for turn in said for call in turn.get("tool_calls", [])]
    written = [json.loads(m["value"]) for row in rows for m in row["conversations"] if m["from"] == "function_call"]
    assert [json.dumps(call["function"]) for call in calls] == [json.dumps(call) for call in written] and len(
        calls
    ) == 211
    assert sum(dialogue.tools is None for dialogue in dialogues) == 109
    tools = [tool["function"] for dialogue in dialogues for tool in dialogue.tools or []]
    assert json.dumps(tools) == json.dumps([tool for row in rows for tool in json.loads(row["tools"])])
    texts = [m["value"] for row in rows for m in row["conversations"] if m["from"] != "function_call"]
    assert [turn["content"] for turn in said if "tool_calls" not in turn] == texts


def test_dpo():
    rows = rows_of("dpo_en_demo.json")
    pairs = [example_of(row, FORMAT) for row in rows]
    assert len(pairs) == 300 and all(isinstance(pair, Preference) for pair in pairs)
    assert Counter(turn["role"] for pair in pairs for turn in pair.prompt) == {
        "user": 563,
        "assistant": 263,
        "system": 80,
    }
    for row, pair in zip(rows, pairs, strict=True):
        assert [turn["content"] for turn in pair.prompt] == [m["value"] for m in row["conversations"]]
        for name, side in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            assert side == [{"role": "assistant", "content": row[name]["value"]}]
    # The same pairs as whole dialogues, and after a prompt.
    whole = [{"chosen": pair.prompt + pair.chosen, "rejected": pair.prompt + pair.rejected} for pair in pairs]
    parts = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs]
    assert [example_of(row, FORMAT) for row in whole] == [example_of(row, FORMAT) for row in parts] == pairs
