"""`marin-sft preview`, as text in 80 columns and as JSON."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.utils import reset_sessions
from rich.cells import cell_len

from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from marin_sft.run import command
from tests.hub_server import HubServer

ROWS = [
    {"messages": [{"role": "user", "content": "\u4e2d\U0001f600\n\tx"}, {"role": "assistant", "content": "ok " * 60}]},
    {"instruction": "hi", "output": "ho"},
    {"prompt": "Q", "chosen": "yes", "rejected": "no"},
    {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}],
     "rejected": [{"role": "assistant", "content": "b"}]},
    {"text": "plain text"},
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
    {"nothing": 1},
    {"messages": [{"role": "user", "content": "alone"}]},
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizer")
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]) * 5)
    train_tokenizer(TrainTokenizerConfig((f"{root}/rows.jsonl",), vocab_size=300, output_path=f"{root}/out"))
    return f"{root}/out"


@pytest.fixture
def preview(tmp_path, capsys, tokenizer):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "{oops\n")

    def run(*flags, code=0, data=data, tokenizer=tokenizer):
        assert command.main(["preview", "--tokenizer", str(tokenizer), "--data", str(data), *flags]) == code
        out, err = capsys.readouterr()
        if code:
            assert out == ""
            return err
        return [json.loads(line) for line in out.splitlines()] if "--json" in flags else out

    return run


def test_json(preview, tokenizer):
    rows = preview("--json", "--rows", "20")
    assert len(rows) == len(ROWS) + 1
    loaded = load_tokenizer(tokenizer)

    def trained(row):
        return loaded.decode([id for id, mask in zip(row["input_ids"], row["mask"], strict=True) if mask])

    expected = loaded.apply_chat_template(
        ROWS[0]["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert (rows[0]["input_ids"], rows[0]["mask"]) == (expected["input_ids"], expected["assistant_masks"])
    assert rows[0]["messages"] == ROWS[0]["messages"] and rows[0]["dropped"] is None
    assert trained(rows[1]) == "ho<|im_end|>" and rows[1]["format"] == "alpaca"
    for pair, texts in ((rows[2], ("yes", "no")), (rows[3], ("a", "b"))):
        assert [trained(pair[side]) for side in ("chosen", "rejected")] == [f"{text}<|im_end|>" for text in texts]
        assert pair["dropped"] is None
    assert rows[3]["rejected"]["messages"] == [*ROWS[3]["prompt"], *ROWS[3]["rejected"]]
    assert trained(rows[4]) == "plain text<|im_end|>" and rows[4]["messages"] is None
    assert rows[5]["input_ids"] == [5, 6, 7] and rows[5]["mask"] == [0, 1, 1]
    assert [row["dropped"].split(":")[0] for row in rows[6:]] == ["unknown_format", "no_assistant_turn", "invalid_json"]
    assert [row["line"] for row in rows] == list(range(1, 10))
    assert rows[7]["input_ids"] == [] and rows[7]["messages"] == ROWS[7]["messages"]


def test_over_length(preview):
    whole, *_ = preview("--json", "--rows", "1")
    count = len(whole["input_ids"])
    cut, *_ = preview("--json", "--rows", "1", "--max_length", "50")
    assert cut["input_ids"] == whole["input_ids"][:50] and cut["mask"] == whole["mask"][:50]
    pieces = preview("--json", "--rows", "1", "--max_length", "50", "--over_length", "split")
    assert len(pieces) == -(-count // 50) and sum((p["input_ids"] for p in pieces), []) == whole["input_ids"]
    (dropped,) = preview("--json", "--rows", "1", "--max_length", "50", "--over_length", "drop")
    assert dropped["dropped"].startswith("over_length: ") and str(count) in dropped["dropped"]
    assert preview("--json", "--rows", "1", "--max_length", str(count)) == [whole]


def test_format_options(preview, tmp_path):
    data = tmp_path / "typed.jsonl"
    turns = [("user", "a<|im_end|>b"), ("assistant", "first"), ("user", "c"), ("assistant", "second")]
    rows = [{"messages": [{"role": role, "content": content} for role, content in turns]}, ROWS[1]]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, _ = preview("--json", data=data)
    options = {"train_on": "last", "special_tokens_in_text": "escape"}
    row, _ = preview("--json", "--format_options", json.dumps(options), data=data)
    assert 0 < sum(row["mask"]) < sum(whole["mask"]) and len(row["input_ids"]) > len(whole["input_ids"])
    row, _ = preview("--json", "--format_options", '{"special_tokens_in_text": "drop"}', data=data)
    assert row["dropped"].startswith("special_tokens")
    preview("--format_options", '{"allow_not_rendered": ["calls"], "template_date": "2026-01-31"}', data=data)


@pytest.mark.parametrize(
    "options, said",
    [
        ("{", "--format_options: Expecting"),
        ("[]", "--format_options: expected a JSON object, got '[]'"),
        ('{"trian_on": "last"}', "--format_options: no option 'trian_on'; did you mean 'train_on'?"),
        ('{"shape": "text"}', "--format_options: no option 'shape'"),
        ('{"train_on": "lsat"}', "--format_options: train_on='lsat'; expected one of"),
        ('{"drop_system": 1}', "--format_options: drop_system=1; expected bool"),
    ],
)
def test_format_options_that_cannot_be_used(preview, options, said):
    assert said in preview("--format_options", options, code=2)


def test_text(preview):
    text = preview("--rows", "20")
    assert all(cell_len(line) <= 80 for line in text.splitlines()), text
    assert "\x1b" not in text
    assert "rows.jsonl:1  format messages" in text and "chosen:" in text
    lines = text.splitlines()
    start = lines.index("rows.jsonl:2  format alpaca")
    body = lines[start + 1 : lines.index("", start)]
    assert body[:2] == ["user: hi", "assistant: ho"] and body[2].endswith(" tokens, 2 trained") or "trained" in body[2]
    assert [line.replace("|", "") for line in body if line.startswith("+ ")] == ["+ ho<im_end>"]
    assert "dropped, no_assistant_turn: " in text and "user: alone" in text
    assert "dropped, unknown_format: " in text and '{"nothing": 1}' in text


def test_what_is_noted(preview, tmp_path):
    messages = [
        {"role": "user", "content": "a<|im_end|>b", "country": "FR"},
        {"role": "assistant", "content": "c", "reasoning_content": "d"},
    ]
    data = tmp_path / "noted.jsonl"
    data.write_text(
        "".join(json.dumps({"messages": m, "topic": 1}) + "\n" for m in (messages, messages[:1], ROWS[0]["messages"]))
    )
    rows = preview("--json", data=data)
    assert rows[0]["dropped"].startswith("reasoning_not_rendered: message 1 (assistant)")
    del messages[1]["reasoning_content"]
    data.write_text(json.dumps({"messages": messages, "topic": 1}) + "\n")
    (row,) = preview("--json", data=data)
    assert row["noted"] == {"special_tokens_in_text": 1} and row["unread_keys"] == ["messages.country"]
    assert row["unused_keys"] == ["topic"]
    lines = preview(data=data).splitlines()
    assert "special tokens that somebody wrote: 1, kept as control tokens" in lines
    assert "keys that the chat template does not use: messages.country" in lines
    assert "keys that the format does not use: topic" in lines


def test_a_template_that_asks_for_the_date(preview, tokenizer, tmp_path):
    dated = load_tokenizer(tokenizer)
    dated.chat_template = "{{ strftime_now('%d %b %Y') }}" + dated.chat_template
    dated.save_pretrained(tmp_path / "dated")
    text = preview("--rows", "1", tokenizer=tmp_path / "dated")
    assert "the template uses the date and gets 2024-07-26; see template_date" in text


def test_named_format(preview):
    row, *_ = preview("--json", "--rows", "5", "--format", "text")
    assert row["dropped"].startswith("missing_key") and row["format"] == "text"


def test_mistakes(preview, tmp_path, tokenizer):
    assert "no such file" in preview(code=2, data=tmp_path / "missing.jsonl")
    assert "no such directory" in preview(code=2, tokenizer=tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "expected a directory with tokenizer.json" in preview(code=2, tokenizer=tmp_path / "empty")
    (tmp_path / "empty/tokenizer.json").write_text("{}")
    assert "cannot load the tokenizer" in preview(code=2, tokenizer=tmp_path / "empty")
    assert "messages" in preview("--format", "mesages", code=2)
    assert "expected a whole number >= 1" in preview("--rows", "0", code=2)
    assert "--over_length" in preview("--over_length", "cut", code=2)
    bare = load_tokenizer(tokenizer)
    bare.chat_template = None
    bare.save_pretrained(tmp_path / "bare")
    (tmp_path / "bare/chat_template.jinja").unlink(missing_ok=True)
    assert "no chat template" in preview(code=2, tokenizer=tmp_path / "bare")
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(json.dumps(ROWS[1]).encode() * 1000)[:60])
    assert "broken.jsonl.gz" in preview(code=1, data=broken)


def test_rows_of_which_none_can_be_used(tmp_path, capsys, tokenizer):
    def run(*rows, name="rows.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        code = command.main(["preview", "--tokenizer", tokenizer, "--data", f"{tmp_path}/rows.jsonl"])
        return code, *capsys.readouterr()

    code, out, err = run({"mesages": []}, {"nothing": 1})
    assert code == 1 and "did you mean 'messages'" in out and "none of the first 2 rows can be used" in err
    assert run({"mesages": []}, ROWS[1])[0] == 0
    code, out, err = run()
    assert code == 1 and out == "" and "rows.jsonl: no rows" in err


def test_names_that_are_nearly_right(preview, tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "mymodel").symlink_to(tokenizer)
    for name in ("mymodle", "./mymodle"):
        assert "did you mean 'mymodel'?" in preview(code=2, tokenizer=name)
    reset_sessions()  # those of this process that were made offline stay so
    assert "did you mean 'rows.jsonl'?" in preview(code=2, data="rosw.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert preview("--json", data="~/rows.jsonl") == preview("--json")


def test_hub_ids_that_lead_nowhere(tmp_path):
    """Without a network, and where the hub has no such model: it is asked once."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[1]) + "\n")

    def run(name, environment):
        done = subprocess.run(
            [sys.executable, "-m", "marin_sft.run.command", "preview", "--tokenizer", name, "--data", "rows.jsonl"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    error = run("nobody/nothing", {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)})
    assert "cannot load the tokenizer 'nobody/nothing'" in error
    with HubServer() as hub:
        error = run("mymodle", hub.environment(tmp_path))
        assert "no such directory, and no such model on the hub" in error and len(hub.requests) == 1


def test_no_jax(preview, tmp_path, tokenizer):
    data = tmp_path / "rows.jsonl"
    program = (
        "import sys; from marin_sft.run import command;"
        f"code = command.main(['preview', '--json', '--tokenizer', {tokenizer!r}, '--data', {str(data)!r}]);"
        "heavy = {'jax', 'ray', 'levanter', 'datasets'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_flags_of_the_format(preview, tmp_path):
    data = tmp_path / "named.jsonl"
    turns = [{"who": who, "content": text} for who, text in (("me", "a"), ("it", "b"), ("me", "c"), ("it", "d"))]
    data.write_text(json.dumps({"turns": turns}) + "\n")
    flags = ["--columns", "messages=turns,role=who", "--role_map", '{"me": "user", "it": "assistant"}', "--json"]
    (row,) = preview(*flags, data=data)
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2
    (last,) = preview(*flags, "--train_on", "last", data=data)
    assert last["input_ids"] == row["input_ids"] and 0 < sum(last["mask"]) < sum(row["mask"])
    for flags, said in (
        (["--columns", "messages"], "--columns 'messages': expected pairs, as in a=b,c=d, or a JSON object"),
        (["--columns", "mesages=turns"], "--columns: columns: 'mesages' is not one of our names; expected one of"),
        (["--columns", "mesages=turns"], "did you mean 'messages'?"),
        (["--role_map", "[1]"], "--role_map: expected a JSON object"),
        (["--train_on", "lsat"], "--train_on: train_on='lsat'; expected one of"),
        (["--train_on", "last", "--format_options", '{"train_on": "all"}'], "both set 'train_on'"),
    ):
        assert said in preview(*flags, data=data, code=2)


def test_rows_beyond_those_shown_are_looked_at(preview, tmp_path, capsys, tokenizer):
    data = tmp_path / "long.jsonl"
    good, odd, bad = (json.dumps(row) + "\n" for row in (ROWS[1], {"nothing": 1}, {"mesages": []}))
    data.write_text(good * 40 + odd + bad * 2 + good * 957 + bad * 5)
    lines = preview("--rows", "1", data=data).splitlines()
    start = lines.index("Of the first 1,000 rows, 3 are dropped:")
    told = " ".join(line.strip() for line in lines[start + 1 :])
    assert told.startswith("3 unknown_format, as long.jsonl:41: ") and "1002" not in told
    assert len(preview("--json", "--rows", "2", data=data)) == 2
    data.write_text(good * 3)
    assert preview("--rows", "1", data=data).endswith("Of all 3 rows, none is dropped.\n")
    data.write_text(bad * 50)
    assert command.main(["preview", "--tokenizer", tokenizer, "--data", str(data), "--json"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and "none of the first 50 rows can be used (unknown_format: 50)" in err
    assert "(unknown_format: 50). Fix the rows, or describe them with --format, --columns and --role_map" in err


EXPERIMENT = """
from marin_sft.data import ChatLmDatasetFormat, TextLmDatasetFormat
from marin_sft.steps import mixture, tokenize, train_tokenizer

def shouted(row):
    return [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"].upper()}]

steps = {
    "loud": tokenize("loud", "rows.jsonl", tokenizer="tok", format=ChatLmDatasetFormat(formatting_func=shouted)),
    "texts": tokenize("texts", "rows.jsonl", tokenizer="tok", format=TextLmDatasetFormat(text_key="q")),
}
blend = mixture("blend", {"own": tokenize("own", "rows.jsonl", tokenizer=train_tokenizer("t", ["rows.jsonl"],
    vocab_size=300))}, weights={"own": 1}, seq_len=8)
"""


def test_a_step_of_an_experiment(tmp_path, capsys, tokenizer, monkeypatch):
    """Its rows, tokenizer and format, also one that is a function; wherever the step is named in the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    Path("tok").symlink_to(tokenizer)
    Path("rows.jsonl").write_text(json.dumps({"q": "hi", "a": "ho"}) + "\n")
    Path("mine.py").write_text(EXPERIMENT)

    def run(*words, code=0):
        assert command.main(["preview", "mine.py", *words, "--prefix", str(tmp_path / "store")]) == code
        out, err = capsys.readouterr()
        return err if code else json.loads(out)

    row = run("tokenized/loud", "--json")
    assert row["messages"][1]["content"] == "HO"
    loaded = load_tokenizer(tokenizer)
    assert loaded.decode(run("tokenized/texts", "--json")["input_ids"]) == "hi<|im_end|>"
    assert run("tokenized/txts", code=2).count("did you mean 'tokenized/texts'?") == 1
    assert "3 tokenize steps; name one of them: tokenized/loud, tokenized/own, tokenized/texts" in run(code=2)
    error = run("tokenized/own", code=2)
    assert "tokenizers/t has no output yet" in error and "python mine.py --run_only '^tokenizers/t$'" in error
    assert "got --train_on, which the step already sets" in run("tokenized/loud", "--train_on", "all", code=2)
    assert "'minne.py': no such file" in _error(["preview", "minne.py"], capsys)
    assert "--data and --tokenizer not given" in _error(["preview"], capsys)
    Path("bare.py").write_text(f"{EXPERIMENT}\nfrom marin_sft import executor_main\nexecutor_main(steps=[blend])\n")
    assert command.main(["preview", "bare.py", "tokenized/loud"]) == 0
    assert not (tmp_path / "store").exists()


def _error(words, capsys):
    assert command.main(words) == 2
    return capsys.readouterr().err
