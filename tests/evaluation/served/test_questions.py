"""Prompts that a server is asked: files of any kind that `marin-sft generate` takes."""

import json

import pytest

from marin_sft.data.chat.renderer import ChatRenderer
from marin_sft.errors import DataError
from marin_sft.evaluation.served.questions import questions, todays_format
from marin_sft.evaluation.step_configs import ServedConfig
from marin_sft.training.fakes import word_tokenizer
from tests.evaluation.served.conftest import WORDS


@pytest.fixture
def ask(tmp_path):
    renderer = ChatRenderer(word_tokenizer(WORDS), todays_format())

    def ask(text: str, name: str = "rows.jsonl", max_length: int = 64) -> list[list[tuple[str, str]]]:
        path = tmp_path / name
        path.write_text(text)
        config = ServedConfig(model="model", prompts={"set": str(path)}, max_prompts=3)
        asked = questions(config, renderer, max_length)
        assert all(question.ids == renderer.prompt_ids(question.text) for question in asked)
        return [[(turn["role"], turn["content"]) for turn in question.messages] for question in asked]

    return ask


def rows(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_answers_are_not_needed_and_not_asked(ask):
    user, other = {"role": "user", "content": "w1"}, {"role": "user", "content": "w2"}
    answer = {"role": "assistant", "content": "w3"}
    asked = ask(
        rows({"messages": [user]}, {"prompt": "w2"}, {"prompt": "w1", "messages": [user, answer, other, answer]})
    )
    assert asked == [[("user", "w1")], [("user", "w2")], [("user", "w1"), ("assistant", "w3"), ("user", "w2")]]
    assert ask("w1\n\nw2\n", "prompts.txt") == [[("user", "w1")], [("user", "w2")]]


def test_a_row_that_is_no_prompt_is_named(ask, tmp_path):
    with pytest.raises(DataError, match='rows.jsonl:2: expected an object with either "messages" or "prompt"'):
        ask(rows({"prompt": "w1"}, {"text": "w1"}))
    with pytest.raises(DataError, match="rows.jsonl:1: .*an answer and no prompt"):
        ask(rows({"messages": [{"role": "assistant", "content": "w1"}]}))
    with pytest.raises(DataError, match=r"rows.txt:1: the prompt has \d+ tokens, expected fewer than the 4 that"):
        ask("w1 w2 w3\n", "rows.txt", max_length=4)
    with pytest.raises(DataError, match="rows.txt: no prompts"):
        ask("\n", "rows.txt")


def test_only_the_first_rows_are_read(ask):
    assert len(ask(rows(*({"prompt": f"w{i}"} for i in range(3)), {"text": "not reached"}))) == 3
