"""The quickstart through `ray_run` on a cluster of three hosts. One of them is killed in the middle of the training.

    python -m tests.hosts.quickstart_timeline

Prints what happened when, in seconds since the job was submitted. Needs root, as all hosts of this folder do.
"""

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from tests.hosts.hosts import Host, Hosts, impossible, wait_for
from tests.hosts.ray_on_hosts import DASHBOARD, RayOnHosts

TRAINING = "checkpoints/quickstart_seed0"
KILLED_AFTER = 100  # training steps


def main() -> None:
    if reason := impossible():
        sys.exit(f"{reason}, so the quickstart was not run")
    with tempfile.TemporaryDirectory() as directory, Hosts(3, Path(directory)) as hosts:
        shared = Path(directory)
        begun = time.time()
        ray = RayOnHosts(hosts, workers=2, scratch=shared, dashboard=True)
        print(f"a head and two workers are up after {time.time() - begun:.0f} s", flush=True)
        events = run(ray, shared)
    for at, what in sorted(events):
        print(f"{at:7.1f} s  {what}")


def run(ray: RayOnHosts, shared: Path) -> list[tuple[float, str]]:
    store, log = shared / "store", shared / "job.log"
    flags = ["--address", f"http://{ray.head.address}:{DASHBOARD}"]
    script = ["python", "experiments/quickstart.py", "--prefix", str(store)]
    submitted = time.time()
    with log.open("w") as output:
        job = ray.launch("-m", "marin_sft.run.ray_run", *flags, "--", *script, stdout=output)
    events = [(0.0, f"ray_run {' '.join(flags)} -- {' '.join(script)}")]
    victim, step = wait_for(lambda: _training_host(ray, store, job, log), 1800, f"step {KILLED_AFTER} of {TRAINING}")
    events.append((time.time() - submitted, f"kill -9 of {victim.name}, after step {step} of {TRAINING}"))
    victim.kill()
    code = job.wait(timeout=1800)
    events.append((time.time() - submitted, f"ray_run ends with exit code {code}"))
    print(log.read_text())
    return events + [(at - submitted, what) for at, what in _told_by(store)]


def _training_host(ray: RayOnHosts, store: Path, job: subprocess.Popen, log: Path) -> tuple[Host, int] | None:
    """Where the training runs, and its last step, once it has passed `KILLED_AFTER`."""
    assert job.poll() is None, log.read_text()
    for beat in store.glob(f"{TRAINING}-*/claims/000001.beat"):
        progress = json.loads(beat.read_text())["progress"]
        if progress and progress["done"] > KILLED_AFTER:
            name = json.loads(beat.with_suffix(".json").read_text())["owner"]["host"]
            return next(host for host in ray.workers if host.name == name), progress["done"]
    return None


def _told_by(store: Path) -> list[tuple[float, str]]:
    """Every claim, and every commit."""
    events = []
    for path in store.rglob("claims/*.json"):
        claim = json.loads(path.read_text())
        where = f"attempt {claim['number']} on {claim['owner']['host']}"
        events.append((datetime.fromisoformat(claim["time"]).timestamp(), f"{_step(path, store)}: {where}"))
    for path in store.rglob("commits/*.json"):
        commit = json.loads(path.read_text())
        what = f"{_step(path, store)}: attempt {commit['attempt']} is committed"
        events.append((datetime.fromisoformat(commit["time"]).timestamp(), what))
    return events


def _step(path: Path, store: Path) -> str:
    return str(path.parents[1].relative_to(store)).rpartition("-")[0]


if __name__ == "__main__":
    main()
