"""`marin-sft chat` and `marin-sft generate` on a model, an adapter and what lies in buckets."""

import copy
import dataclasses
import gzip
import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin_sft.data.chat.renderer import ChatRenderer
from marin_sft.data.messages.examples import Dialogue
from marin_sft.errors import UserError
from marin_sft.evaluation.answerer import FORMAT, Answerer
from marin_sft.evaluation.chat import Chat
from marin_sft.evaluation.sampling import GREEDY, Sampling
from marin_sft.execution.console import TextConsole
from marin_sft.run.chat import Talk
from marin_sft.run.chat_lines import answer_lines
from marin_sft.run.command import main
from marin_sft.run.generate import Request, generate
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import levanter_model
from marin_sft.training.models.lora import adapter_tensors
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.peft_directory import Adapter, write_adapter
from tests.published.releases import RELEASES, write

THINKING = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
THINKING += "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write(tmp_path_factory.mktemp("model") / "qwen", RELEASES["qwen 2.5 instruct"]))


@pytest.fixture(scope="module")
def answerer(model):
    return Answerer.load(model)


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    """An adapter that changes the answers."""
    config = LoraConfig(r=4, alpha=8)
    new = adapter_tensors(levanter_model.load_model(model, lora=config))
    path = tmp_path_factory.mktemp("adapter")
    write_adapter(
        str(path), Adapter(config, {name: tensor + 0.3 for name, tensor in new.items()}), ModelDirectory(model)
    )
    return str(path)


def talk(answerer, capsys, monkeypatch, *lines: str, new_tokens: int = 6) -> tuple[str, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    Talk(Chat(answerer, new_tokens, GREEDY)).run("model")
    return capsys.readouterr()


def test_a_dialogue_is_remembered_and_what_was_said_is_streamed(answerer):
    chat = Chat(answerer, 6, GREEDY)
    first = [piece for _, piece in chat.say("Count.")]
    assert len(first) > 1 and "".join(first) == chat.messages[-1]["content"]
    list(chat.say("On."))
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.asked == answerer.prompt(Dialogue(chat.messages[:-1]))


def test_an_answer_that_is_not_waited_for_is_remembered_as_far_as_it_came(answerer):
    chat = Chat(answerer, 16, GREEDY)
    pieces = chat.say("Count.")
    begun = next(pieces)[1]
    pieces.close()
    assert chat.messages[-1]["content"].startswith(begun) and len(chat.answered) < 16
    list(chat.say("On."))
    assert len(chat.messages) == 4


def test_the_commands_of_a_chat(answerer, capsys, monkeypatch):
    out, err = talk(
        answerer, capsys, monkeypatch, "/tokens", "/rest", "/system Be brief.", "Hi", "/tokens", "/tokens ids"
    )
    shown = [line for line in err.split("\n") if line]
    assert "<|im_start|>system" in err and "Be brief.<|im_end|>" in err and "<|im_start|>assistant" in err
    assert "<|im_" not in out  # where stdout is no terminal, only answers go there
    assert any(
        line.startswith(f"{answerer.tokenizer.convert_tokens_to_ids('<|im_start|>')}:<|im_start|>") for line in shown
    )
    assert "nothing is said yet" in err and "no command /rest" in err and "did you mean 'reset'" in err
    assert "tokens of prompt, " in err
    out, err = talk(answerer, capsys, monkeypatch, "/help", "/reset", "/quit", "never said")
    assert "/think" in err and "new dialogue" in err and out == "> " * 3


def test_a_system_message_that_the_template_leaves_out_is_refused(answerer, capsys, monkeypatch):
    short = with_template(answerer, THINKING.replace("{{ m.content }}", "{{ m.content[:3] }}"))
    _, err = talk(short, capsys, monkeypatch, "/system Be brief.")
    assert "error: the chat template leaves out the system message" in err


def test_thoughts_are_one_line(answerer, capsys, monkeypatch):
    out, err = talk(with_template(answerer, THINKING), capsys, monkeypatch, "Hi", "/think")
    assert "[thought for 6 tokens; /think shows it]\n" in err and "thought" not in out
    assert err.rstrip().rpartition("/think shows it]\n")[2]


def test_a_dialogue_longer_than_the_model_takes_is_told(answerer, capsys, monkeypatch):
    _, err = talk(answerer, capsys, monkeypatch, "long " * 300, new_tokens=1000)
    assert f"and the model takes {answerer.longest}: expected a shorter one" in err
    _, err = talk(answerer, capsys, monkeypatch, "Hi", "long " * 300, new_tokens=2)
    assert f"and the model takes {answerer.longest}: start a new one with /reset" in err
    _, err = talk(answerer, capsys, monkeypatch, "Hi", new_tokens=1000)
    assert f"[cut: the model takes {answerer.longest} tokens; /reset starts a new dialogue]" in err
    _, err = talk(answerer, capsys, monkeypatch, "Hi", new_tokens=2)
    assert "[cut after 2 tokens, the --max_new_tokens]" in err


PIPED = ["Count.", "", "/reset", "/tokens", "long " * 300, "Count."]


def piped(answerer: Answerer, capsys, as_json: bool, *lines: str) -> tuple[list[str], str, str]:
    """What comes out of a pipe, in lines; what is told, and the error that ends it."""
    error = ""
    try:
        answer_lines(Chat(answerer, 6, GREEDY), [f"{line}\n".encode() for line in lines], as_json)
    except UserError as found:
        error = str(found)
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    return out.split("\n")[:-1], err, error


def test_each_line_of_a_pipe_gives_one_line(answerer, capsys):
    chat = Chat(answerer, 6, GREEDY)
    list(chat.say("Count."))
    answer = chat.messages[-1]["content"]
    lines, told, error = piped(answerer, capsys, False, *PIPED[:4], " /Count.", "/quit", "never said")
    assert len(lines) == 6 and lines[0] == answer.replace("\n", "\\n") and lines[1:4] == ["", "", ""] and lines[4]
    assert told.startswith("line 1: cut after 6 tokens, the --max_new_tokens\nnew dialogue\nnothing is said yet\n")
    assert not error
    lines, _, error = piped(answerer, capsys, False, *PIPED)
    assert lines[1:] == ["", "", ""]  # what follows an error is not answered
    assert error.startswith("line 5: the message has ") and f"the model takes {answerer.longest}" in error
    assert piped(answerer, capsys, False, "Count.", "/rest")[2].startswith("line 2: no command /rest (a space before /")


class OfTwoLines(Answerer):
    def stream(self, prompt, max_new_tokens, sampling, number):
        yield from [*self.tokenizer("one\ntwo\x1b")["input_ids"], self.ends[0]]


def test_an_answer_of_several_lines_stays_in_its_own(answerer, capsys):
    two = OfTwoLines(answerer.model, answerer.renderer, answerer.ends)
    lines, told, _ = piped(two, capsys, False, "Hi", "Hi")
    assert lines == [r"one\ntwo\x1b"] * 2 and not told
    (line,), *_ = piped(two, capsys, True, "Hi")
    assert (json.loads(line)["answer"], json.loads(line)["finish"]) == ("one\ntwo\x1b", "stop")


def test_each_line_of_a_pipe_gives_one_object(answerer, capsys):
    lines, told, error = piped(answerer, capsys, True, *PIPED)
    rows = [json.loads(line) for line in lines]
    first, blank, reset, tokens, long, last = rows
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5, 6] and not told
    assert {key: first[key] for key in ("prompt", "finish", "tokens")} == {
        "prompt": "Count.",
        "finish": "length",
        "tokens": 6,
    }
    chat = Chat(answerer, 6, GREEDY)
    assert first["answer"] == "".join(piece for _, piece in chat.say("Count."))
    assert (
        first["prompt_tokens"] == len(chat.asked) == last["prompt_tokens"]
    )  # of a new dialogue, without the refused line
    assert blank == {"line": 2, "prompt": "", "skipped": True} and reset["command"] == "/reset" and tokens["text"]
    assert long["prompt"] == PIPED[4].strip() and "the message has " in long["error"] and "answer" not in long
    assert last["answer"] == first["answer"]
    assert error == "1 of 6 lines could not be answered; their error says why"
    thinking = with_template(answerer, THINKING)
    row = json.loads(piped(thinking, capsys, True, "Hi")[0][0])
    assert row["thought"] and row["answer"] == ""


def test_lines_that_are_no_text_are_refused(answerer, capsys):
    chat = Chat(answerer, 2, GREEDY)
    with pytest.raises(UserError, match="line 2: expected UTF-8"):
        answer_lines(chat, ["\ufeffHi\r\n".encode(), b"\xff\n"], False)
    assert chat.messages[0]["content"] == "Hi"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_through_a_real_pipe(model, capfd, monkeypatch, flags):
    """The command itself, in this process."""
    read, write = os.pipe()
    with open(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with open(write, "w") as pipe:
            pipe.write(f"Hi\n/tokens\n{'long ' * 300}\nHi\n")
        assert main(["chat", model, "--max_new_tokens", "2", *flags]) == 2
    out, err = capfd.readouterr()
    lines = out.splitlines()
    if flags:
        assert ["error" in json.loads(line) for line in lines] == [False, False, True, False]
        assert err.endswith("error: 1 of 4 lines could not be answered; their error says why\n")
    else:
        assert len(lines) == 2 and lines[0] and not lines[1]
        assert "<|im_start|>assistant" in err and "\nerror: line 3: the dialogue has " in err


def test_a_tokenizer_of_another_model_is_told(answerer, capsys):
    tokenizer = copy.deepcopy(answerer.tokenizer)
    tokenizer.add_tokens([f"<new{i}>" for i in range(answerer.model.Vocab.size)])
    other = dataclasses.replace(answerer, renderer=ChatRenderer(tokenizer, FORMAT))
    last = f"<new{answerer.model.Vocab.size - 1}>"
    error = piped(other, capsys, False, "Hi", last)[2]
    assert error.startswith(f"line 2: the dialogue cannot be a prompt: token '{last}' has id ")
    assert f"and the model has {answerer.model.Vocab.size} embeddings" in error


def with_template(answerer: Answerer, template: str) -> Answerer:
    tokenizer = copy.deepcopy(answerer.tokenizer)
    tokenizer.chat_template = template
    return dataclasses.replace(answerer, renderer=ChatRenderer(tokenizer, FORMAT))


def read(path) -> list[dict]:
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def ask(model: str, prompts, output, *flags: str) -> int:
    return main(["generate", model, "--prompts", str(prompts), "-o", str(output), "--max_new_tokens", "4", *flags])


def test_a_file_of_prompts_is_answered(model, answerer, tmp_path, capsys):
    said = [{"role": "user", "content": "Count."}]
    rows = [{"messages": [*said, {"role": "assistant", "content": "1"}]}, {"prompt": "Count."}, {"prompt": said}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.txt").write_text("Count.\n\nCount.\n")
    assert ask(model, tmp_path / "rows.jsonl", tmp_path / "a.jsonl", "--json") == 0
    assert json.loads(capsys.readouterr().out)["answers"] == 3
    first, second, third = read(tmp_path / "a.jsonl")
    chat = Chat(answerer, 4, GREEDY)
    list(chat.say("Count."))
    assert first["messages"] == second["messages"] == third["messages"] == chat.messages
    assert (first["reference"], first["line"], third["line"]) == ("1", 1, 3) and "reference" not in second
    assert (first["finish"], first["tokens"]) == ("length", 4)
    assert ask(model, tmp_path / "rows.txt", tmp_path / "b.jsonl", "--system", "Brief.") == 0
    one, two = read(tmp_path / "b.jsonl")
    assert (one["line"], two["line"]) == (1, 3) and one["messages"][0] == {"role": "system", "content": "Brief."}
    drawn = ["--n", "3", "--temperature", "3", "--top_k", "50", "--seed", "1"]
    assert ask(model, tmp_path / "rows.txt", tmp_path / "c.jsonl", *drawn) == 0
    assert ask(model, tmp_path / "rows.txt", tmp_path / "d.jsonl", *drawn, "--batch_size", "2") == 0
    assert [row["sample"] for row in read(tmp_path / "c.jsonl")] == [0, 1, 2] * 2
    assert read(tmp_path / "c.jsonl") == read(tmp_path / "d.jsonl")
    assert len({str(row["messages"]) for row in read(tmp_path / "c.jsonl")}) > 3


def test_prompts_without_answers_in_every_kind_of_file(model, tmp_path):
    said = {"role": "user", "content": "Count."}
    folder = tmp_path / "prompts"
    folder.mkdir()
    rows = [
        {"prompt": "Count."},
        {"prompt": [said]},
        {"messages": [said]},
        {"conversations": [{"from": "human", "value": "Count."}]},
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "b.json").write_text(json.dumps(rows[:2]))
    (folder / "c.csv").write_text("prompt,id\nCount.,7\n")
    (folder / "d.txt").write_text("\ufeffCount.\r\n\n")
    (folder / "e.txt.gz").write_bytes(gzip.compress(b"Count.\n"))
    pq.write_table(pa.table({"messages": [[said]]}), folder / "f.parquet")
    output = tmp_path / "out.jsonl"
    assert ask(model, folder, output) == 0
    answers = read(output)
    assert len({json.dumps(row["messages"]) for row in answers}) == 1 and answers[0]["messages"][:-1] == [said]
    places = [(row["file"].rpartition("/")[2], row["line"]) for row in answers]
    assert places[:4] == [("a.jsonl", line) for line in (1, 2, 3, 4)]
    assert places[4:] == [("b.json", 1), ("b.json", 2), ("c.csv", 2), ("d.txt", 1), ("e.txt.gz", 1), ("f.parquet", 1)]
    assert ask(model, f"{folder}/*.txt", output, "--force") == 0 and len(read(output)) == 1
    system = [{"prompt": "Count.", "system": "Be brief."}, {"prompt": "Count."}]
    (tmp_path / "system.jsonl").write_text("".join(json.dumps(row) + "\n" for row in system))
    assert ask(model, tmp_path / "system.jsonl", output, "--force", "--system", "Be kind.") == 0
    assert [row["messages"][0]["content"] for row in read(output)] == ["Be brief.", "Be kind."]
    assert all("file" not in row for row in read(output))


class Interrupted(Answerer):
    """Ctrl-C when the third answer is there."""

    def text(self, answer) -> str:
        seen.append(1)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)
        return super().text(answer)


seen: list[int] = []


def test_what_was_interrupted_goes_on(model, answerer, tmp_path, capsys):
    (tmp_path / "rows.txt").write_text("Count.\nWhat is 2 + 2?\nHi\nWhy?\nOn.\n")
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    drawn = ["--temperature", "2"]
    assert ask(model, tmp_path / "rows.txt", whole, *drawn) == 0
    seen.clear()
    sampling = Sampling(2.0, 1.0, 0, None)
    request = Request((model,), str(tmp_path / "rows.txt"), str(output), None, sampling, 1, 4, 16)
    stopping = Interrupted(answerer.model, answerer.renderer, answerer.ends)
    with pytest.raises(KeyboardInterrupt):
        generate(stopping, request, TextConsole(stderr=True))
    part = next(tmp_path.glob("out.jsonl.*.part"))
    assert f"interrupted: 2 of 5 answers are in {part}; the same command goes on from there" in capsys.readouterr().err
    assert not output.exists() and read(part) == read(whole)[:2]
    with open(part, "a") as file:
        file.write('{"line": 2, "sam')  # begun by a process that was killed
    assert ask(model, tmp_path / "rows.txt", output, *drawn, "--seed", "5") == 0  # asks for others
    assert read(output) != read(whole) and part.exists()
    assert ask(model, tmp_path / "rows.txt", output, *drawn, "--force") == 0
    assert "2 of 5 answers are in " in capsys.readouterr().err
    assert output.read_bytes() == whole.read_bytes() and not part.exists()


def test_an_interrupted_upload_leaves_nothing(model, answerer, tmp_path, capsys, gcs):
    import fsspec

    bucket = fsspec.filesystem("gs")
    (tmp_path / "rows.txt").write_text("Count.\n" * 4)
    seen.clear()
    request = Request((model,), str(tmp_path / "rows.txt"), "gs://bucket/half/out.jsonl", None, GREEDY, 1, 4, 2)
    with pytest.raises(KeyboardInterrupt):
        generate(Interrupted(answerer.model, answerer.renderer, answerer.ends), request, TextConsole(stderr=True))
    assert "interrupted: 2 of 4 answers were made, and are lost" in capsys.readouterr().err
    assert not bucket.exists("bucket/half/out.jsonl")


def damaged(model: str, directory, **files: str | None) -> str:
    """A copy of the model with other files; None: without it."""
    shutil.copytree(model, directory)
    for name, text in files.items():
        path = directory / name.replace("__", ".")
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
    return str(directory)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"tokenizer__json": None, "vocab__json": None, "merges__txt": None},
            ["it has no vocabulary (found ", "expected tokenizer.json: copy or download it again"],
        ),
        ({"tokenizer__json": '{"version":'}, ["tokenizer.json is not an object of JSON (EOF while", "whole: copy or"]),
        ({"tokenizer__json": "null"}, ["tokenizer.json is not an object of JSON (", "whole: copy or"]),
        (
            {"chat_template__jinja": None, "tokenizer_config__json": "{}"},
            [
                " has no chat template, so it is not known how it was asked",
                "/chat_template.jinja, or in chat_template of",
            ],
        ),
        ({"chat_template__jinja": "{{ 1 | nothing }}"}, [": its chat template cannot be used: ", "No filter named"]),
        ({"config__json": "{"}, ["config.json: expected JSON: "]),
        (
            {"config__json": '{"model_type": "foo", "vocab_size": 9}'},
            ["model: config.json: model_type 'foo': expected one of llama"],
        ),
        (
            {"config__json": '{"model_type": "qwen2"}'},
            ["model: config.json: vocab_size = None: expected a whole number"],
        ),
        ({"generation_config__json": '{"eos_token_id": "x"}'}, ["eos_token_id = 'x': expected ids of tokens"]),
        ({"model__safetensors": None}, ["no model.safetensors in "]),
    ],
)
def test_what_is_no_whole_model_is_told_as_such(model, tmp_path, capsys, files, told):
    (tmp_path / "rows.txt").write_text("Hi\n")
    assert ask(damaged(model, tmp_path / "model", **files), tmp_path / "rows.txt", tmp_path / "x.jsonl") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and all(text in error for text in told), error
    advice_for_others = ("format.", "TextLmDatasetFormat", "--tokenizer_name_or_path", "NoneType", "on the hub", "rows")
    assert not any(text in error.replace("rows.txt", "") for text in advice_for_others)


def test_what_cannot_be_answered_is_told_with_its_place(model, tmp_path, capsys):
    rows, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"

    def refused(text: str, *flags: str) -> str:
        rows.write_text(text)
        assert ask(model, rows, output, *flags) == 2
        return capsys.readouterr().err

    good = json.dumps({"prompt": "Hi"}) + "\n"
    assert f'{rows}:2: expected an object with either "messages" or "prompt"' in refused(good + '{"text": "x"}\n')
    strange = refused(json.dumps({"messages": [{"role": "frog", "content": "x"}]}) + "\n")
    assert (
        f"{rows}:1: messages[0] has the role 'frog', expected one of ['user', " in strange and "role_map" not in strange
    )
    assert f"{rows}: no prompts; expected at least one" in refused("")
    assert f"{rows}:2: " in refused(good + "{broken\n")
    assert f"{rows}:1: the prompt has" in refused(json.dumps({"prompt": "long " * 300}) + "\n")
    assert "expected a --temperature above 0" in refused(good, "--n", "2")
    for flag, value in (("--top_k", "5"), ("--top_p", "0.5"), ("--seed", "1")):
        assert f"{flag} changes nothing without a --temperature above 0" in refused(good, flag, value)
    assert not output.exists()
    output.write_text("mine")
    assert "exists already" in refused(good) and output.read_text() == "mine"
    rows.write_text(good)
    assert ask(model, rows, rows, "--force") == 2 and rows.read_text() == good
    assert ask(model, rows, output, "--force") == 0 and len(read(output)) == 1
    assert (
        ask(model, rows, output / "x.jsonl") == 2 and f"--output: {output} is no directory" in capsys.readouterr().err
    )
    assert ask(model, tmp_path / "rowz.jsonl", tmp_path / "a.jsonl") == 2
    error = capsys.readouterr().err
    assert "no file matches" in error and ".arrow, .txt; did you mean" in error
    assert ask(model, rows, tmp_path / "new" / "a" / "b.jsonl") == 0 and len(read(tmp_path / "new/a/b.jsonl")) == 1


def test_an_adapter_answers_on_its_base_here_and_in_a_bucket(model, adapter, tmp_path, capsys, gcs):
    import fsspec

    (tmp_path / "rows.txt").write_text("Count.\nWhat is 2 + 2?\n")
    assert ask(model, tmp_path / "rows.txt", tmp_path / "base.jsonl") == 0
    assert ask(adapter, tmp_path / "rows.txt", tmp_path / "adapted.jsonl") == 0
    adapted = read(tmp_path / "adapted.jsonl")
    assert adapted != read(tmp_path / "base.jsonl")
    bucket = fsspec.filesystem("gs")
    bucket.put(f"{adapter}/", "bucket/chat/adapter/", recursive=True)
    bucket.put(f"{model}/", "bucket/chat/base/", recursive=True)
    bucket.put(str(tmp_path / "rows.txt"), "bucket/chat/rows.txt")
    there = "gs://bucket/chat/"
    flags = ["--base", f"{there}base"]
    assert ask(f"{there}adapter", f"{there}rows.txt", f"{there}out.jsonl", *flags) == 0
    assert [json.loads(line) for line in bucket.cat_file("bucket/chat/out.jsonl").splitlines()] == adapted
    capsys.readouterr()
    lost = shutil.copytree(adapter, tmp_path / "lost")
    config = json.loads((lost / "adapter_config.json").read_text())
    (lost / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/gone"}))
    assert ask(str(lost), tmp_path / "rows.txt", tmp_path / "x.jsonl") == 2
    assert "base_model_name_or_path = 'org/gone': no such directory" in capsys.readouterr().err
    (lost / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path)}))
    assert ask(str(lost), tmp_path / "rows.txt", tmp_path / "x.jsonl") == 2
    assert (
        f"'{tmp_path}': that directory has no config.json; give the directory of the model" in capsys.readouterr().err
    )
    (lost / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/gone", "lora_alpha": 8}))
    assert ask(str(lost), tmp_path / "rows.txt", tmp_path / "x.jsonl", "--base", model) == 2
    assert "adapter_config.json: no r; expected the adapter's settings" in capsys.readouterr().err
    (lost / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/gone"}))
    other = str(write(tmp_path / "gemma", RELEASES["gemma 3 it"]))
    assert ask(str(lost), tmp_path / "rows.txt", tmp_path / "x.jsonl", "--base", other) == 2
    error = capsys.readouterr().err
    assert f"note: {lost} was trained on 'org/gone', its adapter_config.json says; on another model" in error
    assert f"The base is {other}; {lost}/adapter_config.json names 'org/gone'" in error
    assert ask(str(lost), tmp_path / "rows.txt", tmp_path / "z.jsonl", "--base", model) == 0
    assert f"on another model than that in {model}, its answers mean nothing" in capsys.readouterr().err
    assert ask(adapter, tmp_path / "rows.txt", tmp_path / "y.jsonl", "--base", model) == 0
    assert "note:" not in capsys.readouterr().err
    assert ask(model, tmp_path / "rows.txt", tmp_path / "x.jsonl", "--base", model) == 2
    assert "is a model and no adapter" in capsys.readouterr().err


def test_a_directory_without_a_model_names_those_below_it(model, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "outer" / "hf" / "step-5")
    (tmp_path / "rows.txt").write_text("Hi\n")
    assert ask(str(tmp_path / "outer"), tmp_path / "rows.txt", tmp_path / "x.jsonl") == 2
    err = capsys.readouterr().err
    assert "is no model: it has neither config.json nor adapter_config.json" in err
    assert f"below it are {tmp_path}/outer/hf/step-5" in err


def test_an_interrupt_stops_the_answer_and_not_the_chat(answerer, monkeypatch):
    class Interrupting(io.StringIO):
        """Ctrl-C at the first piece of an answer."""

        left = 1

        def write(self, text: str) -> int:
            written = super().write(text)
            if self.left and text != "> ":
                self.left = 0
                signal.raise_signal(signal.SIGINT)
            return written

    out, err = Interrupting(), io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("Count.\nOn.\n"))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    chat = Chat(answerer, 16, GREEDY)
    Talk(chat).run("model")
    assert err.getvalue().splitlines()[1] == "[stopped]"
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    first, second = chat.messages[1]["content"], chat.messages[3]["content"]
    assert first and len(first) < len(second)
    assert out.getvalue() == f"> {first}\n> {second}\n> \n"


def test_in_a_terminal(model):
    """The command itself, in a pseudoterminal, without torch."""
    ours, theirs = pty.openpty()
    # It makes the terminal its own, so that Ctrl-C reaches it.
    code = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from marin_sft.run.command import main; "
    code += "sys.exit(main() or 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "chat", model, "--max_new_tokens", "2"]
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": ""}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    unread = b""

    def until(mark: bytes, again: bytes = b"") -> bytes:
        """What came until the mark. again: keys that are pressed again if nothing comes."""
        nonlocal unread
        while mark not in unread:
            if again and not select.select([ours], [], [], 5)[0]:
                os.write(ours, again)
                continue
            unread += os.read(ours, 4096)
        found, _, unread = unread.partition(mark)
        return found

    assert b"Ctrl-D ends" in until(b"> ")
    os.write(ours, b"\x03")
    # Python loses a Ctrl-C between its prompt and its wait for a key until the next one.
    assert b"/quit ends the chat" in until(b"> ", again=b"\x03")
    os.write(ours, "Größe\n".encode())
    while b"cut after" not in (answer := until(b"> ")):
        assert b"/quit ends the chat" in answer
    assert b"\x1b[2m...\x1b[0m\r\x1b[K" in answer and b"\x1b[2m[cut after 2 tokens" in answer
    os.write(ours, b"\x04")
    assert process.wait() == 0
    os.close(ours)
