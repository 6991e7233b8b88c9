"""What a server makes of an export. The server is that of transformers; vLLM and llama.cpp are in test_servers.py."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import marin_sft.evaluation.served
from marin_sft.errors import ConfigError, ExportError
from marin_sft.evaluation.served.engines import ENGINES, gguf_file
from marin_sft.evaluation.served.ours import Ours
from marin_sft.evaluation.served.questions import Question
from marin_sft.evaluation.served.served import _answered
from marin_sft.evaluation.served.server import Answer
from marin_sft.evaluation.step_configs import ServedConfig
from marin_sft.execution.graph import build_graph
from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.step import ExecutorStep
from marin_sft.run.command import main
from marin_sft.steps import export as export_step
from marin_sft.steps import mixture, sft, tokenize
from marin_sft.steps import served as served_step
from marin_sft.training.fakes import CHAT_TEMPLATE, word_tokenizer
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models.model_directory import ModelDirectory, save_tokenizer, write_json
from tests.evaluation.served.conftest import WORDS
from tests.evaluation.served.families import adapter_of


def rows_of(output) -> list[dict]:
    return [json.loads(line) for line in (output / "answers.jsonl").read_text().splitlines()]


@pytest.fixture
def adapter(export, tmp_path) -> Path:
    return Path(adapter_of(export, tmp_path / "adapter"))


def test_a_sound_export_is_served_as_it_was_trained(export, prompts, capsys, tmp_path):
    """By the command, whose figures are those of the files that it keeps."""
    output = tmp_path / "kept"
    words = ["serve-check", str(export), "--with", "transformers", "--prompts", prompts, "-o", str(output), "--json"]
    assert main([*words, "--max_new_tokens", "16"]) == 0
    said = capsys.readouterr()
    metrics = json.loads(said.out)
    assert metrics == json.loads((output / "metrics.json").read_text())
    assert metrics["prompts"] == metrics["answers_equal"] == metrics["prompt_ids_equal"] == 8
    assert 0 < metrics["stopped"] == metrics["stopped_ours"] < 8 and metrics["near_ties"] == 0
    assert metrics["context_length"] == 64 and 0 < metrics["logprob_difference"] < 1e-4
    assert not any(value for name, value in metrics.items() if name.endswith("_differ"))
    assert "8 of 8 answers equal token by token" in said.err and "serves" in (output / "server.log").read_text()
    rows = rows_of(output)
    assert all(row["equal"] and row["same"] == {"prompt": True, "prompt_ids": True} for row in rows)
    assert {row["finish"]["server"] for row in rows} == {"stop", "length"}
    assert all((row["ids"]["server"][-1] == 3) == (row["finish"]["server"] == "stop") for row in rows)


def test_files_that_are_not_as_they_were_exported_are_named(copy, capsys, tmp_path):
    files = [file._asdict() for file in LocalStore(str(tmp_path)).files(str(copy))]
    (copy / ".files.json").write_text(json.dumps(files))
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").write_text(template.replace("message", "massage", 1))
    (copy / "README.md").write_text("my own words")
    (copy / "tokenizer_config.json").unlink()
    words = ["serve-check", str(copy), "--with", "transformers"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "not as it was exported (chat_template.jinja: " in said and "; tokenizer_config.json: gone)" in said
    assert "README" not in said and "--tokenizer DIR" in said
    (tmp_path / "metrics.json").write_text("{}")
    assert main([*words, "-o", str(tmp_path)]) == 2
    assert "has the result of a check; expected another directory" in capsys.readouterr().err


def test_an_adapter_that_the_server_cannot_take_is_told_what_to_do_with(export, check, adapter):
    with pytest.raises(ExportError, match="is an adapter: transformers serves whole models here, .* output of export"):
        check(adapter)
    vllm = {"engine": "vllm", "python": sys.executable}
    for changes, said in (
        ({"use_dora": True}, r"no adapters with DoRA \(use_dora in adapter_config.json\); serve the output of export"),
        ({"trainable_token_indices": [1]}, "no adapters with trained tokens"),
        ({"r": 1024}, "adapters up to rank 512, this has 1024"),
    ):
        changed = ModelDirectory(shutil.copytree(adapter, adapter.with_name(next(iter(changes)))))
        write_json(changed.path, "adapter_config.json", {**changed.json("adapter_config.json"), **changes})
        with pytest.raises(ExportError, match=said):
            check(changed.path, **vllm)
    with pytest.raises(ConfigError, match="base .* is a model and no adapter"):
        check(export, base=str(export))
    with pytest.raises(ConfigError, match="that directory has an adapter too; give the directory of the model"):
        check(adapter, base=str(adapter), **vllm)


def test_an_adapter_is_started_with_room_for_its_rank(export, adapter):
    config = ServedConfig(model=str(adapter))
    command = " ".join(ENGINES["vllm"].command("python", "BASE", 1, config, str(adapter)))
    assert "--model BASE --served-model-name base --enable-lora --max-lora-rank 8 " in command
    assert f"--lora-modules export={adapter} " in command
    ours = Ours(config, ModelDirectory(str(adapter)))
    assert ours.vocabulary_size == Ours(ServedConfig(model=str(export)), ModelDirectory(str(export))).vocabulary_size
    assert ours.model_directory.path == str(export) and ours.adapter.path == str(adapter)


def test_another_base_than_the_adapter_names_is_told(export, adapter, capsys, monkeypatch, tmp_path):
    """Of the same shapes, so that it can be loaded."""
    other = str(shutil.copytree(export, tmp_path / "other"))
    words = ["serve-check", str(adapter), "--python", program(tmp_path / "python", "exit 3")]
    assert main([*words, "--base", other]) == 1
    said = f"{adapter} was trained on '{export}', its adapter_config.json says; on another model than that in {other}"
    assert said in capsys.readouterr().err
    assert main(words) == 1
    assert "was trained on" not in capsys.readouterr().err


def test_nothing_is_left_in_the_temporary_directory(export, capsys, monkeypatch, tmp_path):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    words = ["serve-check", str(export), "--with", "transformers", "--max_prompts", "1", "--max_new_tokens", "2"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "--output DIR keeps all answers and the server's log" in said.out
    assert "no file but config.json says that it is 64" in said.out and "no list of what was exported" in said.err
    assert main([*words, "--python", program(tmp_path / "python", "echo unlucky", "exit 3")]) == 1
    said = capsys.readouterr().err
    assert "The end of its log (--output DIR keeps all of it):" in said and "unlucky" in said
    assert not list((tmp_path / "scratch").iterdir())


def test_one_gguf_file_is_served(copy):
    with pytest.raises(ExportError, match="no .gguf file"):
        gguf_file(str(copy))
    for name in ("a.gguf", "b.gguf"):
        (copy / name).touch()
    with pytest.raises(ExportError, match="expected one .gguf file to serve, got a.gguf, b.gguf; leave only one"):
        gguf_file(str(copy))


def test_a_token_that_the_model_does_not_have_is_told(export):
    config = ServedConfig(model=str(export), engine="transformers")
    ours = Ours(config, ModelDirectory(str(export)))
    said = Answer(prompt_text=None, prompt_ids=[1], ids=[5, 9999], logprobs=[-1.0, -1.0], text="", finish="stop")
    with pytest.raises(ExportError, match=r"id 9999, and the model has \d+ embeddings: it serves another model"):
        _answered(ours, Question("set", [], None, {}, "", [1]), [5], said, 8)


def test_a_tokenizer_and_end_tokens_that_are_not_those_of_training(export, copy, check, tmp_path):
    save_tokenizer(str(copy), word_tokenizer(WORDS[::-1]))
    generation = dict(ModelDirectory(str(copy)).json("generation_config.json"))
    write_json(str(copy), "generation_config.json", {**generation, "eos_token_id": [1]})
    first = r"end tokens: '<\|end\|>' \(id 3\) ends an answer in training, .* '<\|eos\|>' \(id 1\)"
    with pytest.raises(ExportError, match=f"transformers 4.* does not serve what was trained: {first}"):
        check(copy, tokenizer=str(export))
    output = tmp_path / "out"
    found = differences(output)
    first = "token 3 is 'w0' (id 7), and 'w39' (id 46) in the server"
    assert found["prompts as ids"] == f"prompt 1 of set 'held_out': {first}"
    assert not found["template"] and not found["prompts as text"] and not found["log-probabilities"]
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["stopped"] == 0 < metrics["stopped_ours"] and metrics["prompt_ids_equal"] == 0


def test_a_template_that_is_not_that_of_training(export, copy, check):
    tokenizer = ModelDirectory(str(copy)).tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("message['role'] + ' '", "'w5 '")
    save_tokenizer(str(copy), tokenizer)
    output = check(copy, tokenizer=str(export), on_difference="report", max_prompts=3)
    assert len(rows_of(output)) == 3
    found = differences(output)
    said = "the template in chat_template.jinja is not that of training: from character 47 on"
    assert found["template"].startswith(said)
    shown = found["prompts as text"]
    assert "'<|start|>user w0 w0 w0<|end|>" in shown and "there '<|start|>w5 w0" in shown
    assert not found["end tokens"] and not found["added tokens"] and not found["context length"]


def differences(output) -> dict[str, str | None]:
    """In words, by check."""
    return {each["check"]: each["difference"] for each in json.loads((output / "checks.json").read_text())["checks"]}


def test_an_export_without_a_template_is_refused(copy, check):
    for file in copy.glob("*chat_template*"):
        file.unlink()
    fields = dict(ModelDirectory(str(copy)).json("tokenizer_config.json"))
    fields.pop("chat_template", None)
    write_json(str(copy), "tokenizer_config.json", fields)
    with pytest.raises(ExportError, match="no chat template, so a server would refuse chats .* export again"):
        check(copy)


def program(path, *lines: str) -> str:
    """A shell script instead of a Python, which gets the same arguments."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


def test_a_model_that_the_server_does_not_know(copy, check, tmp_path):
    """It is made unknown when the server starts, as we know all that we export."""
    rename = f"""sed -i 's/"model_type": "llama"/"model_type": "llama7"/' {copy}/config.json"""
    known = "transformers did not start: it ended with exit code 1; this transformers does not know the architecture"
    with pytest.raises(ExportError, match=rf"{known}(.|\n)*The end of its log(.|\n)*`llama7`"):
        check(copy, python=program(tmp_path / "python", rename, f'exec {sys.executable} "$@"'))


def test_a_server_that_does_not_start(export, check, tmp_path):
    why = r"exit code 3; the reason stands in its log(.|\n)*server.log:\n  no luck today"
    with pytest.raises(ExportError, match=why):
        check(export, python=program(tmp_path / "python", "echo no luck today", "exit 3"))
    long = program(tmp_path / "python", "echo ValueError: first", "seq 40", "printf 'x%.0s' $(seq 2000)", "exit 3")
    with pytest.raises(
        ExportError, match=r"(.|\n)*server.log:\n  ValueError: first\n  ...\n  27\n(.|\n)*x{300}\.\.\.$"
    ):
        check(export, python=long)
    with pytest.raises(ExportError, match=r"did not start within 0.2 s \(start_seconds\)"):
        check(export, python=program(tmp_path / "python", "sleep 1000"), start_seconds=0.2)


def is_there(pid: str) -> bool:
    return Path("/proc", pid).exists()


def test_what_a_server_started_ends_with_the_process_that_asked(tmp_path):
    """Killed, it can end nothing by itself; and what has left its session, no signal to a group reaches."""
    started = tmp_path / "started"
    says_so = f"echo $$ > {started}.new; mv {started}.new {started}"
    server = program(tmp_path / "server", f"setsid sh -c '{says_so}; exec sleep 1000'")
    guard = Path(marin_sft.evaluation.served.__file__).with_name("guard.py")
    asking = (
        "import subprocess, sys, time; from pathlib import Path\n"
        f"process = subprocess.Popen([sys.executable, {str(guard)!r}, {server!r}], stdin=subprocess.PIPE)\n"
        "print(process.pid, flush=True); sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", asking], stdin=pipe, stdout=pipe, text=True) as asks:
        guards = asks.stdout.readline().strip()
        while not started.exists():
            time.sleep(0.01)
        orphan = started.read_text().strip()
        assert is_there(orphan)
        asks.kill()
    while is_there(orphan) or is_there(guards):
        time.sleep(0.01)


def test_a_server_that_is_not_installed(export, check, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARIN_SFT_VLLM_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="vllm is not there: no Python at .*nowhere; `make peers-vllm` .*pip install"):
        check(export, engine="vllm")
    with pytest.raises(ConfigError, match="'llama.cpp' is|llama.cpp is not there: no Python at nope;"):
        check(export, engine="llama.cpp", python="nope")
    with pytest.raises(ConfigError, match="engine = 'tgi': expected one of vllm, llama.cpp, transformers"):
        check(export, engine="tgi")


def test_a_step_takes_what_was_trained_with_from_the_training(export, prompts):
    tokens = tokenize("a", prompts, tokenizer=export)
    packed = mixture("a", {"a": tokens}, weights={"a": 1}, seq_len=32)
    options = {"train_batch_size": 2, "num_train_steps": 1, "learning_rate": 1e-3}
    exported = export_step("a", sft("a", mixture=packed, base_model=export, **options))
    step = served_step(exported, with_="llama.cpp", prompts={"held_out": prompts})
    assert step.name == "served/a_llamacpp" and isinstance(step, ExecutorStep)
    assert step.config.tokenizer == (exported.config.tokenizer or exported.config.base_model)
    other = served_step(exported, with_="llama.cpp", prompts={"held_out": prompts}, python="x")
    assert fingerprint(step) == fingerprint(other) != fingerprint(served_step(exported))
    lora = sft("b", mixture=packed, base_model=export, lora=LoraConfig(r=2, alpha=4), **options)
    step = served_step(lora / "adapter", prompts={"held_out": prompts})
    assert step.config.base == step.config.tokenizer == lora.config.base_model
    assert served_step(export, base=export).config.base == export


def fingerprint(step: ExecutorStep) -> str:
    return build_graph([step]).node(step).fingerprint


@pytest.mark.parametrize(
    ("engine", "line", "advice"),
    [
        ("vllm", "ValueError: Model architectures ['XForCausalLM'] are not supported for now.", "architecture"),
        ("vllm", "the model's max seq len (4000000), (3.81 GiB KV cache is needed, which is larger", "max_model_len"),
        ("vllm", "ValueError: User-specified max_model_len (512) is greater than the derived", "max_model_len"),
        ("llama.cpp", "llama_model_load: error loading model: unknown model architecture: 'x'", "architecture"),
        ("llama.cpp", "error loading model vocabulary: unknown pre-tokenizer type: 'y'", "pre-tokenizer"),
        ("transformers", "ModuleNotFoundError: No module named 'torch'", "build it again"),
        ("transformers", "AutoModelForCausalLM requires the PyTorch library but it was not found", "pip install torch"),
        ("transformers", "Killed", ""),
    ],
)
def test_advice_fits_the_log(engine, line, advice):
    found = ENGINES[engine].advice(f"INFO starting\n{line}\n")
    assert advice in found and bool(advice) == bool(found)
