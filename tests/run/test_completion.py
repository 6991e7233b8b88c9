"""`marin-sft completion`, in real shells, on a real store. Those that are not installed are skipped."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
from marin_sft.execution.record import read_launches
from marin_sft.execution.stores import open_store
from marin_sft.run import command

ROOT = Path(__file__).parents[2]
BASH = """
eval "$(marin-sft completion bash)"
for line in "$@"; do
    COMP_LINE="$line"; COMP_POINT=${#line}; COMP_TYPE=9; COMPREPLY=()
    _python_argcomplete marin-sft
    printf '%s\\n' "${COMPREPLY[@]}" "end of $line"
done
"""


@step_fn(kind="completed")
def completed(config):
    Path(config["out"], "text.txt").write_text("")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a store and experiments, and the environment to complete in."""
    folder = tmp_path_factory.mktemp("completion")
    steps = [ExecutorStep(name, completed, {"out": this_output_path()}) for name in ("raw/one", "raw/two", "sft/one")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mine.py"])  # else the launch is named after how the tests were started
        Executor(ExecutorFlags(prefix=str(folder / "store"), backend="inline")).run(steps)
    (folder / "experiments").mkdir()
    (folder / "experiments" / "mine.py").write_text("")
    (folder / "bin").mkdir()
    program = f"#!{sys.executable}\nimport sys\nfrom marin_sft.run.command import main\nsys.exit(main())\n"
    (folder / "bin" / "marin-sft").write_text(program)
    (folder / "bin" / "marin-sft").chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MARIN_", "COMP_"))}
    env |= {"PATH": f"{folder / 'bin'}:{env['PATH']}", "TERM": "xterm", "HOME": str(folder)}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return folder, env


def of_bash(place, *lines):
    """The completions of each line."""
    folder, env = place
    command = ["bash", "--norc", "--noprofile", "-c", BASH, "bash", *lines]
    found = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert found.returncode == 0 and found.stderr == "", found.stderr
    texts = found.stdout.split("end of ")
    answers = [[line.strip() for line in text.splitlines() if line.strip()] for text in texts]
    return [answers[0], *(answer[1:] for answer in answers[1:-1])]


def test_bash(place):
    folder, _ = place
    (launch,) = read_launches(open_store(str(folder / "store")))
    fingerprinted = (folder / "store" / "raw").glob("one-*")
    lines = {
        "marin-sft st": ["status", "stop"],
        "marin-sft cluster ": ["up", "down", "status", "doctor"],
        "marin-sft runs --l": ["--limit"],
        "marin-sft sft --learning_rate_e": ["--learning_rate_end"],
        "marin-sft dpo --loss_t": ["--loss_type"],
        "marin-sft serve-check --with l": ["llama.cpp"],
        "marin-sft why raw/": ["raw/one", "raw/two"],
        "marin-sft why raw/one-": [f"raw/{found.name}" for found in fingerprinted],
        "marin-sft diff raw/one s": ["sft/one"],
        f"marin-sft runs {launch.name[23:28]}": [launch.name[23:]],
        "marin-sft runs 2": [launch.name],
        "marin-sft chat s": ["sft/one", "store/"],
        "marin-sft plan ": ["experiments/mine.py", "experiments/", "store/"],
        "marin-sft status --prefix st": ["store/"],
        "marin-sft why --prefix gs://bucket/x ": [],
    }
    found = dict(zip(lines, of_bash(place, *lines), strict=True))
    assert {line: [word for word in words if word != "bin/"] for line, words in found.items()} == lines


def test_an_answer_takes_little(place):
    """In seconds of CPU. The shell waits that long for each."""
    before = os.times()
    of_bash(place, *["marin-sft why raw/"] * 4)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent / 5 < 0.6, "the script itself is one more"


def test_fish(place):
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    folder, env = place
    ask = "marin-sft completion fish | source; complete -C 'marin-sft st'; complete -C 'marin-sft why raw/'"
    found = subprocess.run([fish, "--no-config", "-c", ask], cwd=folder, env=env, capture_output=True, text=True)
    words = [line.split("\t")[0] for line in found.stdout.splitlines()]
    assert words == ["status", "stop", "raw/one", "raw/two"], found.stderr


def test_zsh(place):
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed")
    folder, env = place
    ours, its = pty.openpty()
    shell = subprocess.Popen([zsh, "-f", "-i"], cwd=folder, env=env, stdin=its, stdout=its, stderr=its)
    os.close(its)
    seen, deadline = "", time.monotonic() + 60

    def until(mark):
        nonlocal seen
        while mark not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 65536).decode(errors="replace")
        seen = seen.partition(mark)[2]

    try:
        os.write(ours, b"autoload -U compinit && compinit -u -D; eval \"$(marin-sft completion zsh)\"; echo re''ady\n")
        until("ready")
        os.write(ours, b"marin-sft why raw/o\t --json\n")
        until('"state": "COMMITTED"')
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def test_unknown_shells_are_refused(capsys):
    assert command.main(["completion", "tcsh"]) == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
