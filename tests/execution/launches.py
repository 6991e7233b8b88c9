"""Child processes that run a small pipeline, killing themselves at a chosen store operation; what must hold after."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from marin_sft.execution.documents import canonical_json
from marin_sft.execution.local_store import LocalStore

SCRIPT = """
import os, signal, sys
from pathlib import Path
from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path
from marin_sft.execution.local_store import LocalStore

KILL_AT, AFTER = int(os.environ.get("KILL_AT", 0)), os.environ.get("KILL_AFTER") == "1"
count = 0

def counted(operation):
    def call(*args, **kwargs):
        global count
        count += 1
        this = count
        if this == KILL_AT and not AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        result = operation(*args, **kwargs)
        if this == KILL_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

for name in ("create_exclusive", "replace", "make_directory", "point_latest", "remove", "_write_temporary"):
    setattr(LocalStore, name, counted(getattr(LocalStore, name)))

@step_fn(kind="body")
def body(config):
    with open(os.environ["BODIES"], "a") as log:
        log.write(config["name"] + "\\n")
    text = "".join(Path(i, "text.txt").read_text() for i in config["inputs"])
    Path(config["out"], "text.txt").write_text(text + config["name"])

def step(name, *inputs):
    return ExecutorStep(name, body, {"name": name, "inputs": list(inputs), "out": this_output_path()})

if "GATE" in os.environ:
    open(os.environ["GATE"]).close()  # a named pipe: opens for all at once
executor_main(steps=[step("b", step("a"))])
if not KILL_AT:
    print(f"operations: {count}")
"""


class Launches:
    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.store = tmp_path / "store"
        self.bodies_log = tmp_path / "bodies.log"
        (tmp_path / "script.py").write_text(SCRIPT)

    def start(self, *flags: str, **environment: str) -> subprocess.Popen:
        env = {**os.environ, "BODIES": str(self.bodies_log), **environment}
        command = [sys.executable, "script.py", "--prefix", str(self.store), "--backend", "inline", *flags]
        return subprocess.Popen(
            command, cwd=self.path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *flags: str, **environment: str) -> tuple[int, str]:
        process = self.start(*flags, **environment)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def bodies(self) -> list[str]:
        return self.bodies_log.read_text().split() if self.bodies_log.exists() else []

    def commits(self) -> dict[str, str]:
        """Every commit that there is; checks that each is of a whole output with the right content."""
        found = {}
        for path in sorted(self.store.glob("[ab]-*/commits/*.json")):
            commit = json.loads(path.read_text())
            attempt = path.parents[1] / str(commit["attempt"])
            assert (attempt / "text.txt").read_text() == ("a" if path.parents[1].name[0] == "a" else "ab")
            files = [list(file) for file in LocalStore(str(self.store)).files(str(attempt))]
            assert commit["digest"] == hashlib.sha256(canonical_json(files).encode()).hexdigest()
            assert commit["number"] == int(path.stem)
            found[str(path)] = path.read_text()
        return found

    def check_finished(self, kills: int) -> None:
        commits = self.commits()
        assert len(commits) == 2 and all(path.endswith("000001.json") for path in commits)
        assert all(1 <= self.bodies().count(name) <= 1 + kills for name in "ab")
