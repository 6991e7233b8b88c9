"""`marin-sft lint`, as text in 80 columns and as JSON."""

import json
import sys

import pytest
from huggingface_hub.utils import reset_sessions
from rich.cells import cell_len

from marin_sft.execution.terminal import without_colours
from marin_sft.run import command
from tests.execution.test_terminal import ROOT, on_a_terminal
from tests.hub_server import HubServer


def chat(asked, answer):
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


ROWS = [chat(f"A question about the number {n} and the letter {chr(97 + n)}?", f"Answer {n}") for n in range(20)]
BROKEN = [
    *ROWS,
    ROWS[3],
    chat("What does <|im_end|> mean?\n\x1b[31m" + "really " * 40, "It ends a turn."),
    chat("Hi!", ""),
]


@pytest.fixture
def lint(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rows in (("rows", ROWS), ("broken", BROKEN)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "store").mkdir()

    def run(*arguments, code=0):
        assert command.main(["lint", *arguments, "--prefix", str(tmp_path / "store")]) == code
        out, err = capsys.readouterr()
        return err if code else json.loads(out) if "--json" in arguments else out

    return run


def counts(report, component):
    return {name: one["count"] for name, one in report["components"][component]["findings"].items()}


def test_findings_with_where_they_are(lint):
    text = lint("broken.jsonl")
    assert "duplicate_rows  equal to an earlier row\n  broken  1 row, 4.35%\n" in text
    assert "    broken.jsonl:21  as broken.jsonl:4\n      A question about the number 3" in text
    assert "broken.jsonl:22  '<|im_end|>' (user)" in text and "broken.jsonl:23  it has no text" in text
    assert text.endswith("23 rows in 1 component\n") and "\x1b" not in text
    assert "\\x1b[31m" + "really " * 12 in text, "what is piped is not cut"
    assert lint("rows.jsonl") == "20 rows in 1 component: nothing was found\n"
    assert "broken.jsonl:21" not in lint("broken.jsonl", "--samples", "0")


def test_on_a_terminal_lines_are_cut_and_names_are_text(lint, tmp_path):
    (tmp_path / "broken.jsonl").rename(tmp_path / "<b>\x1b[31m.jsonl")
    command = [sys.executable, "-c", "from marin_sft.run.command import main; main()", "lint", "<b>\x1b[31m.jsonl"]
    code, text = on_a_terminal(*command, cwd=tmp_path, PYTHONPATH=str(ROOT), COLUMNS="60")
    assert code == 0 and "really" in text
    assert "<b>\\x1b[31m rows" in text and "\x1b[31m.jsonl" not in text and "<b>\x1b[31m" not in text
    assert [line for line in text.splitlines() if "really" in line and cell_len(without_colours(line)) > 60] == []


def test_json_and_files(lint, tmp_path):
    (tmp_path / "exam.jsonl").write_text((tmp_path / "rows.jsonl").read_text())
    found = lint("broken.jsonl", "other=rows.jsonl", "--test", "exam.jsonl", "--json", "-o", "kept")
    assert counts(found, "broken") == {
        "duplicate_rows": 1,
        "empty_answers": 1,
        "leaked_test_prompts": 21,
        "special_tokens_in_text": 1,
    }
    assert counts(found, "other") == {"duplicate_rows": 20, "leaked_test_prompts": 20}
    assert found["across"] == [{"finding": "duplicate_rows", "component": "other", "of": "broken", "count": 20}]
    samples = [json.loads(line) for line in (tmp_path / "kept/findings.jsonl").read_text().splitlines()]
    assert samples == found.pop("samples")
    assert json.loads((tmp_path / "kept/findings.json").read_text()) == found


def test_thresholds(lint):
    assert "1 component" in lint("broken.jsonl", "--fail_above", "duplicate_rows=0.05,empty_answers=0.05")
    error = lint("broken.jsonl", "--fail_above", "duplicate_rows=0.05", "--fail_above", "empty_answers=0.01", code=1)
    assert "broken: empty_answers 4.35%, at most 1.00% allowed, as broken.jsonl:23" in error
    assert "duplicate_rows" not in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rwos.jsonl"], ["'rwos.jsonl': no such file", "did you mean", "rows.jsonl"]),
        (["rows.jsonl", "broken.jsonl", "./rows.jsonl"], ["rows and ./rows.jsonl both have", "rows.jsonl, so each of"]),
        (["rows.jsonl", "linked.jsonl"], ["rows and linked both have"]),
        (["*.jsonl", "rows.jsonl"], ["rows both have"]),
        (["rows.jsonl", "--test", "exam=rows.jsonl"], ["rows and --test exam both have"]),
        (["exam=gs:/rows.jsonl"], ["'gs:/rows.jsonl': no such file"]),
        ([""], ["'': no such file"]),
        (["rows.jsonl", "-o", "/dev/null"], ["-o /dev/null: not a directory"]),
        (["rows.jsonl", "-o", "/proc/found"], ["-o /proc/found: cannot be written: No such file or directory\n"]),
        (["rows.jsonl", "--format", "alpca"], ["--format 'alpca'", "alpaca"]),
        (["rows.jsonl", "--fail_above", "duplicates=0.1"], ["no finding 'duplicates'", "duplicate_rows"]),
        (["rows.jsonl", "--fail_above", "duplicate_rows"], ["expected a share of the rows, as in duplicate_rows=0.01"]),
        (["rows.jsonl", "--fail_above", "duplicate_rows=7"], ["fail_above['duplicate_rows']=7.0; expected a share"]),
        (["mine.py", "--columns", "a=b"], ["got --columns, which its steps already set"]),
        (["mine.py", "tokenized/chat"], ["no step 'tokenized/chat'", "tokenized/chats"]),
    ],
)
def test_mistakes(lint, tmp_path, arguments, expected):
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "linked.jsonl").symlink_to("rows.jsonl")
    error = lint(*arguments, code=2)
    assert all(text in error for text in expected), error


EXPERIMENT = """
from marin_sft.data import ChatLmDatasetFormat
from marin_sft.steps import lint, mixture, tokenize, train_tokenizer, transform

documents = transform("chats", "rows", source="mine")
tokenizer = train_tokenizer("tiny", ["rows.jsonl"], vocab_size=300)
chats = tokenize("chats", documents / "train/*.jsonl.gz", tokenizer=tokenizer)
named = ChatLmDatasetFormat(columns={"instruction": "q", "output": "a"})
again = tokenize("again", "named.jsonl", tokenizer=tokenizer, format=named)
named = tokenize("named", "named.jsonl", tokenizer=tokenizer, format=named)
blend = mixture("blend", {"chats": chats, "named": named}, weights={"chats": 1, "named": 0}, seq_len=64)
if __name__ == "__main__":
    from marin_sft import executor_main

    executor_main(steps=[documents, tokenizer, lint("chats", documents)])
"""


def test_steps_of_an_experiment_and_of_the_store(lint, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/train.jsonl").write_text((tmp_path / "broken.jsonl").read_text())
    (tmp_path / "named.jsonl").write_text('{"q": "What?", "a": ""}\n')
    assert "documents/chats has no output yet" in lint("mine.py", "tokenized/chats", code=2)
    monkeypatch.setattr(sys, "argv", ["mine.py", "--prefix", str(tmp_path / "store"), "--backend", "inline"])
    exec(compile(EXPERIMENT, "mine.py", "exec"), {"__name__": "__main__"})
    capsys.readouterr()

    found = lint("mine.py", "--json")["components"]
    assert {name: one["rows"] for name, one in found.items()} == {"chats": 23, "again": 1}, "its rows are once there"
    assert found["again"]["findings"].keys() == {"empty_answers"}
    assert lint("mine.py", "tokenized/named", "tokenized/named").endswith("1 row in 1 component\n")
    assert "named and --test exam both have" in lint("mine.py", "tokenized/named", "--test", "exam=named.jsonl", code=2)
    assert lint("mine.py", "mixtures/blend", "--json")["components"].keys() == {"chats"}
    assert counts(lint("documents/chats", "--json"), "chats")["duplicate_rows"] == 1
    assert "holds findings, not rows" in lint("lint/chats", code=2)
    both = lint("documents/chats", "named.jsonl", "--columns", "instruction=q,output=a", "--json")["components"]
    assert {name: one["rows"] for name, one in both.items()} == {"chats": 23, "named": 1}


def test_a_dataset_of_the_hub(lint, monkeypatch):
    with HubServer() as hub:
        text = "".join(json.dumps(row) + "\n" for row in BROKEN)
        hub.add_dataset(
            "org/chats", {"train.jsonl": text.encode(), "test.jsonl": b'{"instruction": "a", "output": ""}\n'}
        )
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        reset_sessions()
        assert counts(lint("org/chats", "--json"), "chats")["duplicate_rows"] == 1
        assert lint("org/chats", "--split", "test", "--json")["rows"] == 1
