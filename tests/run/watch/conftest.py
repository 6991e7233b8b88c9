import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from marin_sft.execution.stores import open_store

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from pathlib import Path
from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path
from marin_sft import progress

@step_fn(kind="watched")
def watched(config):
    print(f"the log of {config['name']}", flush=True)
    Path(config["out"], "metrics.json").write_text('{"loss": 0.25}')
    if config["name"] == "bad":
        raise ValueError("told to fail:\\n  got       7\\n  expected  8")
    if config["name"] == "going":
        progress.report(3, 10, "steps", loss=0.5)
        print("\\x1b]0;title\\x07" + "long " * 100, flush=True)
        open(sys.argv[0] + ".gate").read()

def step(name, *inputs):
    return ExecutorStep(f"some/{name}", watched, {"name": name, "inputs": list(inputs), "out": this_output_path()})

first = step("first")
executor_main(steps=[first, step("bad", first), step("after", step("going", first))])
"""


@pytest.fixture(scope="session")
def launched(tmp_path_factory):
    """A launch with a step that runs until the fixture ends."""
    folder = tmp_path_factory.mktemp("watched")
    script, prefix = folder / "script.py", folder / "store"
    script.write_text(SCRIPT)
    gate = folder / "script.py.gate"
    os.mkfifo(gate)
    command = [sys.executable, script, "--backend", "inline", "--prefix", prefix]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            with open(gate, "w"):  # opens when the step does, which then waits for it to be closed
                yield SimpleNamespace(prefix=str(prefix), script=str(script), store=open_store(str(prefix)))
        finally:
            process.kill()
