"""A launch of `experiment.py` on hosts, and what the store says of it meanwhile."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.hosts.hosts import ROOT, Host, wait_for
from tests.hosts.ray_on_hosts import RayOnHosts

T = TypeVar("T")
SCRIPT = Path(__file__).with_name("experiment.py")


def prepare(store: Path) -> None:
    """Run all that comes before the training."""
    before = '["mixtures/.*", "models/.*"]'
    command = [sys.executable, str(SCRIPT), "--prefix", str(store), "--backend", "inline", "--run_only", before]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=300)


class TrainingFiles:
    """A copy of a prepared store, and what a training writes into it."""

    def __init__(self, prepared: Path, store: Path) -> None:
        self.store = store
        shutil.copytree(prepared, store, symlinks=True)

    def check(self) -> None:
        """Called while waiting; raises if the launch has ended."""

    @property
    def directory(self) -> Path:
        (path,) = self.store.glob("checkpoints/tiny_seed0-*")
        return path

    def _await(self, look: Callable[[], T], what: str, seconds: float) -> T:
        def checked() -> T:
            if not (found := look()):
                self.check()
            return found

        return wait_for(checked, seconds, f"{self.store}: {what}")

    def await_claim(self, number: int, seconds: float = 180) -> dict:
        def claim() -> dict | None:
            found = [*self.store.glob(f"checkpoints/tiny_seed0-*/claims/{number:06}.json")]
            return json.loads(found[0].read_text()) if found else None

        return self._await(claim, f"claim {number}", seconds)

    def metrics(self, attempt: int) -> list[str]:
        """What an attempt has logged, a line for each step. It takes over the lines of steps that it need not take."""
        found = [*self.store.glob(f"checkpoints/tiny_seed0-*/{attempt}/metrics.jsonl")]
        lines = found[0].read_text().splitlines() if found else []
        return [line for line in lines if line.endswith("}")]

    def steps(self, attempt: int) -> list[int]:
        return [json.loads(line)["step"] for line in self.metrics(attempt)]

    def await_step(self, attempt: int, step: int, seconds: float = 300) -> int:
        """Wait until an attempt has taken a step. Returns the last that it has taken."""
        self._await(lambda: max(self.steps(attempt), default=0) >= step, f"step {step} of attempt {attempt}", seconds)
        return self.steps(attempt)[-1]

    def await_log(self, attempt: int, text: str, seconds: float = 60) -> int:
        """Wait until a rank of an attempt prints a text. Returns the last step that was taken by then."""
        logs = f"checkpoints/tiny_seed0-*/{attempt}/.log*"
        self._await(lambda: any(text in log.read_text() for log in self.store.glob(logs)), repr(text), seconds)
        return max(self.steps(attempt), default=0)

    def checkpoint(self, attempt: int) -> int:
        """The step of the newest checkpoint of an attempt; 0 if there is none."""
        names = [path.name for path in (self.directory / str(attempt)).glob("checkpoints/step-*")]
        return max([int(name.removeprefix("step-")) for name in names], default=0)

    def digest(self) -> str:
        """Of the weights, once they are committed."""
        return hashlib.sha256((self.directory / "latest" / "model" / "model.safetensors").read_bytes()).hexdigest()


class Training(TrainingFiles):
    """With a launch on the head of a Ray cluster. settings: variables that `experiment.py` reads."""

    def __init__(self, ray: RayOnHosts, prepared: Path, store: Path, **settings: str) -> None:
        super().__init__(prepared, store)
        self._ray, self._log = ray, store / "launch.log"
        self._settings = [f"{name}={value}" for name, value in settings.items()]
        self.launch = self.start()

    def start(self) -> subprocess.Popen:
        """The command, as a user types it: the first time, or again."""
        command = ["env", *self._settings, sys.executable, str(SCRIPT), "--prefix", str(self.store)]
        with self._log.open("a") as log:
            self.launch = self._ray.head.start(*command, env=self._ray.env, stdout=log, stderr=subprocess.STDOUT)
        return self.launch

    def check(self) -> None:
        assert self.launch.poll() is None, self._log.read_text()

    def await_hosts(self, attempt: int) -> list[Host]:
        self.await_log(attempt, "ranks on", seconds=180)
        return self.hosts(attempt)

    def hosts(self, attempt: int) -> list[Host]:
        """The hosts that an attempt runs on, by rank."""
        log = (self.directory / str(attempt) / ".log").read_text()
        names = dict.fromkeys(re.findall(r"\bhost\d+\b", log))
        return [host for name in names for host in self._ray.workers if host.name == name]

    def finish(self, seconds: float = 300) -> str:
        """Wait until the launch has succeeded. Returns the digest of the weights."""
        self.launch.wait(timeout=seconds)
        assert self.launch.returncode == 0, self._log.read_text()
        return self.digest()
