"""`marin-sft sft` on a file of chats, the experiment that it writes, and `marin-sft chat` with what it made."""

import io
import json
import os
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from marin_sft.run.command import main
from tests.experiments.tiny_hub import tiny_models

ROWS = [
    {"messages": [{"role": "user", "content": f"What is {i} + 1?"}, {"role": "assistant", "content": f"{i + 1}."}]}
    for i in range(60)
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The directory in which the command ran, and the model."""
    root = tmp_path_factory.mktemp("ours")
    (root / "models").mkdir()
    model = str(tiny_models(root / "models")["Qwen/Qwen3-14B"])
    (root / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    before = os.getcwd()
    os.chdir(root)
    try:
        command = ["sft", "--data", "chats.jsonl", "--model", model, "--num_train_epochs", "1"]
        assert main([*command, "--backend", "inline", "--experiment_out", "mine.py"]) == 0
    finally:
        os.chdir(before)
    return root, model, command


def test_a_file_of_chats_becomes_a_model_with_a_loss_before_and_after(made):
    root, model, _ = made
    (directory,) = (root / "output").iterdir()
    results = json.loads((directory / "train_results.json").read_text())
    assert results["validation/loss"] < results["before/validation/loss"]
    assert (directory / "model.safetensors").stat().st_nlink > 1  # no second copy
    assert AutoTokenizer.from_pretrained(directory).chat_template == AutoTokenizer.from_pretrained(model).chat_template


def test_the_same_command_trains_nothing(made, monkeypatch, capsys):
    root, _, command = made
    monkeypatch.chdir(root)
    assert main([*command, "--backend", "inline"]) == 0
    assert "0 to run" in capsys.readouterr().out


def test_the_experiment_it_writes_makes_the_same_steps(made):
    root = made[0]
    run = [sys.executable, "mine.py", "--dry_run", "--json"]
    plan = json.loads(subprocess.run(run, cwd=root, capture_output=True, text=True, check=True).stdout)
    assert {step["action"] for step in plan} == {"SKIP"}
    assert len(plan) == 4


def test_an_experiment_is_not_written_over(made, monkeypatch, capsys):
    root, _, command = made
    monkeypatch.chdir(root)
    assert main([*command, "--dry_run", "--experiment_out", "mine.py"]) == 2
    assert "mine.py: exists already" in capsys.readouterr().err


def test_one_can_talk_to_it(made, monkeypatch, capsys):
    (directory,) = (made[0] / "output").iterdir()
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(b"What is 7 + 1?\n\nAnd 8 + 1?\n/reset\nWhat is 7 + 1?\n"))
    )
    assert main(["chat", str(directory), "--max_new_tokens", "5"]) == 0
    first, blank, _, reset, again = capsys.readouterr().out.splitlines()
    assert first and (blank, reset) == ("", "") and again == first


def test_talking_to_what_is_no_model_is_refused(made, capsys):
    assert main(["chat", str(made[0] / "nothing"), "--prefix", str(made[0] / "store")]) == 2
    assert "nothing" in capsys.readouterr().err
