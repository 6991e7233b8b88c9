"""A mistake in a script that nobody catches ends it with what is wrong and where, and no traceback through our code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from marin_sft.errors import GraphError
from marin_sft.execution.executor import ExecutorStep, this_output_path
from marin_sft.execution.graph import build_graph

ROOT = Path(__file__).parents[1]


def run(tmp_path, script, *flags):
    (tmp_path / "script.py").write_text(script)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "script.py", *flags], cwd=tmp_path, env=env, capture_output=True, text=True)


def test_the_message_and_the_script_s_own_line(tmp_path):
    done = run(tmp_path, "from marin_sft.training.lora_config import LoraConfig\n\nlora = LoraConfig(r=0)\n")
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 2, done.stderr
    assert lines[0].startswith("error: LoraConfig.r = 0: expected")
    assert lines[1] == f"  at {tmp_path}/script.py:3: lora = LoraConfig(r=0)"


@pytest.mark.parametrize(
    "script, last",
    [
        ("import marin_sft.errors\nraise ValueError('x')\n", "ValueError: x"),
        ("from marin_sft.errors import *\nUserError('y')\nraise KeyError('x')\n", "KeyError: 'x'"),
        ("from marin_sft.errors import *\nraise DataError('x')\n", "marin_sft.errors.DataError: x"),
        (
            "import sys\nfrom marin_sft.errors import *\nsys.excepthook = lambda *a: print('mine', file=sys.stderr)\n"
            "raise UserError('x')\n",
            "mine",
        ),
    ],
)
def test_other_exceptions_are_as_ever(tmp_path, script, last):
    done = run(tmp_path, script)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == last


@pytest.mark.parametrize(
    "script, code, stderr",
    [
        ("RunFailed('2 steps failed')", 1, "error: 2 steps failed\n  at {}:6: raise error\n"),
        ("InfrastructureLoss('Ray did not start')", 2, "error: Ray did not start\n  at {}:6: raise error\n"),
        ("UserError('x'); error.add_note('  at main.py:3: f()')", 2, "error: x\n  at main.py:3: f()\n"),
    ],
)
def test_also_after_ray_has_put_its_own_hook_there(tmp_path, script, code, stderr):
    """Which a script that imports ray first has; errors of another process bring their place along."""
    lines = f"import ray\nfrom marin_sft.errors import *\nimport sys\n\nerror = {script}\nraise error\n"
    done = run(tmp_path, lines)
    assert (done.returncode, done.stderr) == (code, stderr.format(tmp_path / "script.py"))


@pytest.mark.parametrize(
    "script",
    ["from marin_sft.errors import *\nraise UserError('x')\n", "from marin_sft import *\nexecutor_main('x')\n"],
)
def test_a_traceback_for_those_who_debug(tmp_path, script):
    done = run(tmp_path, script, "--debug")
    assert done.returncode == 2 and done.stderr.startswith("Traceback") and "Error: " in done.stderr.splitlines()[-1]
    assert run(tmp_path, script).stderr.startswith("error: ")


def test_a_step_is_no_list_of_steps():
    step = ExecutorStep("a", print, {"out": this_output_path()})
    with pytest.raises(GraphError, match=r"steps: expected a list of steps, got the step 'a'; write steps=\[...\]"):
        build_graph(step)
    with pytest.raises(GraphError, match=r"steps: expected a list of steps, got None; write steps=\[...\]"):
        build_graph(None)


def test_a_launch_with_a_wrong_argument(tmp_path):
    done = run(tmp_path, "from marin_sft import *\nexecutor_main(step=[])\n")
    place = f"  at {tmp_path / 'script.py'}:2: executor_main(step=[])\n"
    said = f"error: executor_main() has no argument 'step': did you mean 'steps'?\n{place}"
    assert (done.returncode, done.stderr) == (2, said)
