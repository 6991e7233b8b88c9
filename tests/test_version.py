"""`--version` of every command line, from one place."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from marin_sft.execution.flags import parse_flags
from marin_sft.run import command, ray_run

ROOT = Path(__file__).parents[1]
EXPECTED = f"marin-sft {importlib.metadata.version('marin_sft')}\n"


@pytest.mark.parametrize("words", [[], ["status"], ["cluster"], ["cluster", "up"], ["completion"], ["serve-check"]])
def test_of_commands(words, capsys):
    with pytest.raises(SystemExit, match="^0$"):
        command.main([*words, "--version"])
    assert capsys.readouterr().out == EXPECTED


def test_of_trainings(capsys):
    assert command.main(["sft", "--version"]) == command.main(["dpo", "--version"]) == 0
    assert capsys.readouterr().out == 2 * EXPECTED


@pytest.mark.parametrize("ask", [parse_flags, ray_run.parse])
def test_of_launches(ask, capsys):
    with pytest.raises(SystemExit, match="^0$"):
        ask(["--version"])
    assert capsys.readouterr().out == EXPECTED


def test_of_an_experiment():
    ask = [sys.executable, "experiments/quickstart.py", "--version"]
    done = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, EXPECTED, "")
