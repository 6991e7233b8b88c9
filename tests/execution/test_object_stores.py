"""Whole launches on every kind of store. Bodies read and write through fsspec, by the paths they get."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest

from marin_sft.errors import RunFailed
from marin_sft.execution.executor import (
    Executor,
    ExecutorFlags,
    ExecutorStep,
    earlier_attempts,
    execution_only,
    step_fn,
    this_output_path,
)
from marin_sft.execution.stores import open_store
from marin_sft.progress import is_text
from tests.gcs_server import Fault

between_processes = pytest.mark.parametrize("prefix", ["local", "s3", "gcs"], indirect=True)


@dataclasses.dataclass(frozen=True)
class JoinConfig:
    """Writes `text`, the texts of `inputs`, and what the file `hidden` holds, which is no part of the identity."""

    text: str
    inputs: Any
    hidden: str = execution_only()
    output_path: str = this_output_path()
    earlier: tuple[str, ...] = earlier_attempts()


BODIES: list[str] = []


def read_text(path: str) -> str:
    with fsspec.open(path, "r") as file:
        return file.read()


@step_fn(kind="join")
def join(config: JoinConfig) -> None:
    BODIES.append(config.text)
    text = config.text + "".join(read_text(f"{path}/text.txt") for path in config.inputs)
    hidden = Path(config.hidden)
    with fsspec.open(f"{config.output_path}/text.txt", "w") as file:
        file.write(text + (hidden.read_text() if hidden.exists() else ""))
    if hidden.exists() and hidden.read_text() == "fail":
        raise ValueError(f"told to fail, earlier attempts: {len(config.earlier)}")


def bodies() -> list[str]:
    """The bodies that ran since the last call."""
    ran, BODIES[:] = list(BODIES), []
    return ran


@pytest.fixture
def launch(prefix, tmp_path):
    """Runs steps a -> b, c -> d under the prefix; each step's `hidden` is a file of its name in `tmp_path`."""
    bodies()

    def step(name: str, *inputs: ExecutorStep, text: str | None = None) -> ExecutorStep:
        return ExecutorStep(name, join, JoinConfig(text or name, list(inputs), str(tmp_path / name)))

    def run(texts: dict[str, str] | None = None, **flags: Any):
        texts = texts or {}
        a = step("a", text=texts.get("a"))
        b, c = step("b", a, text=texts.get("b")), step("c", a, text=texts.get("c"))
        d = step("d", b, c, text=texts.get("d"))
        done = Executor(ExecutorFlags(prefix=prefix, backend="inline", **flags)).run([d])
        return done, done.output_path(d)

    yield run
    store = open_store(prefix)
    store.remove(store.path(""))


def statuses(run) -> list[str]:
    return [result.status for result in run.results]


def test_first_run_then_cached_then_an_edit(launch, prefix):
    run, output = launch()
    assert bodies() == ["a", "b", "c", "d"]
    assert output.startswith(f"{prefix}/d-") and read_text(f"{output}/text.txt") == "dbaca"
    store = open_store(prefix)
    assert store.names(output) == [".files.json", ".log", ".record.json", "text.txt"]
    assert json.loads(store.read(f"{output}/.record.json"))["config"]["output_path"] == output

    run, again = launch()
    assert statuses(run) == ["cached"] * 4 and again == output and bodies() == []

    run, edited = launch({"c": "C"})
    assert statuses(run) == ["cached", "cached", "ran", "ran"] and bodies() == ["C", "d"]
    assert read_text(f"{edited}/text.txt") == "dbaCa" and read_text(f"{output}/text.txt") == "dbaca"
    run, _ = launch()
    assert statuses(run) == ["cached"] * 4, "the first outputs are still there"


def test_force_run_goes_as_far_as_outputs_change(launch, tmp_path):
    launch()
    bodies()
    run, _ = launch(force_run=("b",))
    assert bodies() == ["b"] and statuses(run) == ["cached", "ran", "cached", "cached"]
    (tmp_path / "b").write_text("!")
    run, output = launch(force_run=("b",))
    assert bodies() == ["b", "d"] and read_text(f"{output}/text.txt") == "dba!ca"
    run, _ = launch()
    assert bodies() == [] and statuses(run) == ["cached"] * 4


def test_failed_then_retried(launch, prefix, tmp_path, capsys):
    (tmp_path / "b").write_text("fail")
    with pytest.raises(RunFailed):
        launch()
    assert bodies() == ["a", "b", "c"]
    out = capsys.readouterr().out
    assert "b failed: ValueError: told to fail, earlier attempts: 0" in out
    store = open_store(prefix)
    (directory,) = (name for name in store.names(prefix) if name.startswith("b-"))
    assert b"told to fail" in store.read(f"{prefix}/{directory}/1/.log")
    (tmp_path / "b").unlink()
    run, output = launch()
    assert "RETRY" in capsys.readouterr().out
    assert bodies() == ["b", "d"] and read_text(f"{output}/text.txt") == "dbaca"
    assert store.names(f"{prefix}/{directory}/claims") == ["000001.json", "000002.json"]


def test_a_dry_run_writes_nothing(launch, prefix):
    launch(dry_run=True)
    assert open_store(prefix).names(prefix) == [] and bodies() == []


@pytest.mark.parametrize("prefix", ["gcs"], indirect=True)
def test_a_cached_launch_changes_no_output(launch, gcs):
    def outputs():
        return {name: o.generation for name, o in gcs.buckets["bucket"].items() if "/_runs/" not in name}

    launch()
    before = outputs()
    launch()
    assert outputs() == before


@pytest.mark.parametrize("prefix", ["gcs"], indirect=True)
def test_every_answer_to_a_claim_or_a_commit_gets_lost(launch, gcs):
    """No step waits for itself, runs twice, or takes its own commit for another launch's."""
    lost = set()

    def lose_once(request):
        name = request.name or ""
        if request.method != "POST" or name in lost or not ("/claims/" in name or "/commits/" in name):
            return None
        lost.add(name)
        return Fault.LOST if len(lost) % 2 else Fault.DROPPED

    gcs.fault = lose_once
    try:
        run, output = launch()
    finally:
        gcs.fault = lambda request: None
    assert len(lost) == 8 and bodies() == ["a", "b", "c", "d"] and statuses(run) == ["ran"] * 4
    assert read_text(f"{output}/text.txt") == "dbaca"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("prefix", ["gcs"], indirect=True)
def test_partial_listings_lose_nothing(launch, prefix, gcs, seed):
    """A third of all listings lack the newest object. Bodies may run again; what is committed stays as it is."""
    rng = random.Random(seed)
    commits: dict[str, int] = {}
    own = f"{prefix.removeprefix('gs://bucket/')}/"
    gcs.fault = lambda request: Fault.STALE if "prefix" in request.query and rng.random() < 1 / 3 else None
    try:
        for texts in ({}, {}, {"c": "C"}, {"c": "C"}, {}):
            run, output = launch(texts)
            assert not run.failed
            assert read_text(f"{output}/text.txt") == f"dba{texts.get('c', 'c')}a"
            objects = {name: o for name, o in gcs.buckets["bucket"].items() if name.startswith(own)}
            found = {name: o.generation for name, o in objects.items() if "/commits/" in name}
            assert commits.items() <= found.items(), "a commit was written over or lost"
            commits = found
    finally:
        gcs.fault = lambda request: None
    assert {name.rpartition("/")[2] for name in commits} == {"000001.json"}, "nothing was forced: one commit a step"


_RESUMING = """
import os, signal, sys
import fsspec
from marin_sft import ExecutorStep, earlier_attempts, executor_main, step_fn, this_output_path

@step_fn(kind="resuming")
def body(config):
    earlier = [fsspec.open(f"{path}/part.txt", "r").open().read() for path in config["earlier"]]
    with fsspec.open(f"{config['out']}/part.txt", "w") as file:
        file.write("+".join(["part", *earlier]))
    if not earlier:
        os.kill(os.getpid(), signal.SIGKILL)

executor_main(steps=[ExecutorStep("s", body, {"out": this_output_path(), "earlier": earlier_attempts()})])
"""


@between_processes
def test_an_interrupted_attempt_is_continued(prefix, tmp_path):
    """Killed in its body: the next launch sees that the process is gone, and resumes from its directory."""
    (tmp_path / "script.py").write_text(_RESUMING)
    command = [sys.executable, str(tmp_path / "script.py"), "--backend", "inline", "--prefix", prefix]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "RESUME continues attempt 1" in done.stdout
    store = open_store(prefix)
    (directory,) = (name for name in store.names(prefix) if name.startswith("s-"))
    assert store.read(store.path(f"{directory}/2/part.txt")) == b"part+part"
    store.remove(store.path(""))


_GATED = """
import sys
import fsspec
from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path, unversioned

@step_fn(kind="gated")
def body(config):
    with open(config["gate"]) as gate:
        gate.readline()
    with fsspec.open(f"{config['out']}/x.txt", "w") as file:
        file.write("x")

@step_fn(kind="after")
def after(config):
    with fsspec.open(f"{config['out']}/y.txt", "w") as file:
        file.write(fsspec.open(f"{config['input']}/x.txt", "r").open().read() + "y")

first = ExecutorStep("first", body, {"out": this_output_path(), "gate": unversioned(sys.argv.pop())})
executor_main(steps=[ExecutorStep("second", after, {"out": this_output_path(), "input": first})])
"""


@between_processes
def test_two_launches_at_once(prefix, tmp_path):
    """Both plan to run both steps; one runs the first, the other waits for it, and both end well."""
    (tmp_path / "script.py").write_text(_GATED)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = [sys.executable, str(tmp_path / "script.py"), "--backend", "inline", "--prefix", prefix, str(gate)]
    launches = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        plans = [launch.stdout.readline() for launch in launches]
        assert [plan.startswith("Plan: 2 steps, 2 to run") for plan in plans] == [True, True], plans
        with gate.open("r+b", buffering=0) as opener:  # opened both ways it waits for no reader
            opener.write(b"go\n")
            tables = [launch.communicate(timeout=50)[0] for launch in launches]
    finally:
        for launch in launches:
            launch.kill()
    assert [launch.returncode for launch in launches] == [0, 0], tables
    store = open_store(prefix)
    for name in ("first", "second"):
        (directory,) = (d for d in store.names(prefix) if d.startswith(f"{name}-"))
        assert store.names(f"{prefix}/{directory}/commits") == ["000001.json"]
    assert store.read(f"{prefix}/{directory}/1/y.txt") == b"xy"
    store.remove(store.path(""))


_ON_RAY = """
import sys
import fsspec
from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path, unversioned
from marin_sft.execution.shards import map_shards

def write_shard(path):
    with fsspec.open(path, "w") as file:
        file.write("shard")

@step_fn(kind="slow")
def slow(config):
    print("half way", flush=True)
    with open(config["gate"]) as gate:
        gate.readline()
    map_shards(write_shard, [f"{config['out']}/shards/{i}.txt" for i in range(3)])

gate = sys.argv.pop()
executor_main(steps=[ExecutorStep("slow", slow, {"out": this_output_path(), "gate": unversioned(gate)})])
"""


@pytest.mark.parametrize("prefix", ["gcs"], indirect=True)
def test_ray_workers_on_an_object_store(prefix, tmp_path):
    """The step and its shards write to the store, and what the step prints shows while it runs."""
    (tmp_path / "script.py").write_text(_ON_RAY)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # The beat carries the log up, and goes four times in two thirds of this.
    command = [sys.executable, str(tmp_path / "script.py"), "--prefix", prefix, "--beat_timeout", "6", str(gate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                if line == "slow | half way\n":
                    break
            with gate.open("r+b", buffering=0) as opener:
                opener.write(b"go\n")
                rest = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert process.returncode == 0 and "half way" not in rest, rest
    store = open_store(prefix)
    (directory,) = (name for name in store.names(prefix) if name.startswith("slow-"))
    attempt = store.path(f"{directory}/1")
    assert [file.path for file in store.files(attempt)] == [f"shards/{i}.txt" for i in range(3)]
    lines = store.read(f"{attempt}/.log").decode().splitlines()
    assert [line for line in lines if not is_text(line)] == ["half way"]
    assert store.names(f"{prefix}/{directory}/commits") == ["000001.json"]
    store.remove(store.path(""))
