"""A launch of `experiment.py` on hosts, and what the store says of it meanwhile."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.hosts.hosts import ROOT, Host, wait_for
from tests.hosts.ray_on_hosts import RayOnHosts

SCRIPT = Path(__file__).with_name("experiment.py")


def prepare(store: Path) -> None:
    """Run all that comes before the training."""
    before = '["mixtures/.*", "models/.*"]'
    command = [sys.executable, str(SCRIPT), "--prefix", str(store), "--backend", "inline", "--run_only", before]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=300)


class Training:
    """On a copy of a prepared store. settings: variables that `experiment.py` reads."""

    def __init__(self, ray: RayOnHosts, prepared: Path, store: Path, **settings: str) -> None:
        self._ray, self._store = ray, store
        self._settings = [f"{name}={value}" for name, value in settings.items()]
        shutil.copytree(prepared, store, symlinks=True)
        self.launch = self.start()

    def start(self) -> subprocess.Popen:
        """The command, as a user types it: the first time, or again."""
        command = ["env", *self._settings, sys.executable, str(SCRIPT), "--prefix", str(self._store)]
        with (self._store / "launch.log").open("a") as log:
            self.launch = self._ray.head.start(*command, env=self._ray.env, stdout=log, stderr=subprocess.STDOUT)
        return self.launch

    def output(self) -> str:
        return (self._store / "launch.log").read_text()

    @property
    def directory(self) -> Path:
        (path,) = self._store.glob("checkpoints/tiny_seed0-*")
        return path

    def await_claim(self, number: int, seconds: float = 120) -> dict:
        def claim() -> dict | None:
            found = [*self._store.glob(f"checkpoints/tiny_seed0-*/claims/{number:06}.json")]
            if not found:
                assert self.launch.poll() is None, self.output()
            return json.loads(found[0].read_text()) if found else None

        return wait_for(claim, seconds, f"claim {number}: {self._store}")

    def steps(self, attempt: int) -> list[int]:
        """The training steps that an attempt has logged, with those that it took over from earlier ones."""
        found = [*self._store.glob(f"checkpoints/tiny_seed0-*/{attempt}/metrics.jsonl")]
        lines = found[0].read_text().splitlines() if found else []
        return [json.loads(line)["step"] for line in lines if line.endswith("}")]

    def await_step(self, attempt: int, step: int, seconds: float = 180) -> int:
        """Wait until an attempt has taken a step; the last that it has taken."""

        def taken() -> int:
            steps = self.steps(attempt)
            if not steps or steps[-1] < step:
                assert self.launch.poll() is None, self.output()
                return 0
            return steps[-1]

        return wait_for(taken, seconds, f"step {step} of attempt {attempt}: {self._store}")

    def checkpoint(self, attempt: int) -> int:
        """The step of the newest checkpoint of an attempt; 0 if there is none."""
        names = [path.name for path in (self.directory / str(attempt)).glob("checkpoints/step-*")]
        return max([int(name.removeprefix("step-")) for name in names], default=0)

    def hosts(self, attempt: int) -> list[Host]:
        """The hosts that an attempt runs on, by rank."""
        log = (self.directory / str(attempt) / ".log").read_text()
        names = dict.fromkeys(re.findall(r"\bhost\d+\b", log))
        return [host for name in names for host in self._ray.hosts if host.name == name]

    def finish(self, seconds: float = 300) -> str:
        """Wait until the launch has succeeded; the digest of the model."""
        self.launch.wait(timeout=seconds)
        assert self.launch.returncode == 0, self.output()
        return hashlib.sha256((self.directory / "latest" / "model" / "model.safetensors").read_bytes()).hexdigest()
