"""Long runs of random crashes, races, power cuts and damage: `make torture`.

ROUNDS sets the number of rounds of each kind, SEED the dice.

After every round: no two commits for one number, no half-written output taken for a whole one, no finished output lost,
each body run as often as the kills allow and no oftener.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import fsspec
import pytest

from marin_sft.execution.catalog import step_directories
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.documents import canonical_json
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.process import ProcessIdentity, descendants
from marin_sft.execution.step_state import read_state
from tests.execution import power_cuts
from tests.execution.damage import COMMANDS, DAMAGES, damage, launch, our_files, run_command, whole_store
from tests.execution.launches import Launches
from tests.gcs_server import Fault

pytestmark = pytest.mark.torture
ROUNDS = int(os.environ.get("ROUNDS", "100"))
SEED = os.environ.get("SEED", "0")


@pytest.fixture(autouse=True, scope="module")
def report():
    yield
    print(f"\ntorture: {ROUNDS} rounds of each kind, seed {SEED}")


@pytest.mark.parametrize("number", range(ROUNDS))
def test_killed_at_random_operations(tmp_path, number):
    dice = random.Random(f"kill {SEED} {number}")
    launches, seen, kills = Launches(tmp_path), {}, 0
    for _ in range(dice.randint(1, 4)):
        code, output = launches.run(KILL_AT=str(dice.randint(1, 45)), KILL_AFTER=str(dice.randint(0, 1)))
        assert code in (0, -signal.SIGKILL), output
        kills += code != 0
        assert seen.items() <= launches.commits().items(), "a finished output was lost"
        seen = launches.commits()
    assert launches.run()[0] == 0
    launches.check_finished(kills)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_racing_launches_some_of_which_are_killed(tmp_path, number):
    dice = random.Random(f"race {SEED} {number}")
    launches = Launches(tmp_path)
    os.mkfifo(tmp_path / "gate")
    doomed = [{"KILL_AT": str(dice.randint(1, 45))} if dice.random() < 0.3 else {} for _ in range(dice.choice([2, 4]))]
    processes = [launches.start("--beat_timeout", "5", GATE="gate", **fate) for fate in doomed]
    with open(tmp_path / "gate", "w"):
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, fate, output in zip(processes, doomed, outputs, strict=True):
        assert process.returncode == 0 or fate and process.returncode == -signal.SIGKILL, output
    before = launches.commits()
    assert launches.run()[0] == 0
    assert before.items() <= launches.commits().items()
    launches.check_finished(kills=sum(process.returncode != 0 for process in processes))


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_store_that_refuses_and_loses_answers(gcs, number):
    """Each request may be refused, or carried out and its answer lost; the client retries. Bodies run once."""
    dice = random.Random(f"store {SEED} {number}")
    bodies = []

    @step_fn(kind="torture_body")
    def body(config):
        bodies.append(config["out"])
        with fsspec.open(f"{config['out']}/text.txt", "w") as file:
            file.write(config["name"])

    def fault(request) -> Fault | None:
        return dice.choice([Fault.REFUSED, Fault.LOST]) if dice.random() < 0.04 else None

    steps = [ExecutorStep(name, body, {"name": name, "out": this_output_path()}) for name in "ab"]
    flags = ExecutorFlags(prefix=f"gs://bucket/torture-{number}", backend="inline")
    gcs.fault = fault
    try:
        run = Executor(flags).run(steps)
    finally:
        gcs.fault = lambda request: None
    for step, name in zip(steps, "ab", strict=True):
        with fsspec.open(run.output_path(step, "text.txt")) as file:
            assert file.read() == name.encode()
    assert len(bodies) == 2
    assert [result.status for result in Executor(flags).run(steps).results] == ["cached", "cached"]


@pytest.mark.parametrize("number", range(max(1, ROUNDS // 5)))
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_the_power_goes(tmp_path, kind, number):
    """What is committed after the cut is whole, and the same command finishes the rest."""
    if reason := power_cuts.impossible(kind):
        pytest.skip(reason)
    dice = random.Random(f"power {SEED} {kind} {number}")
    disk, cut = tmp_path / "disk.img", tmp_path / "cut.img"
    (tmp_path / "script.py").write_text(power_cuts.SCRIPT)
    power_cuts.make_disk(disk, kind)

    def start(mount: Path) -> subprocess.Popen:
        command = [sys.executable, "script.py", "--prefix", str(mount / "store"), "--backend", "inline"]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    with power_cuts.mounted(disk, tmp_path / "before") as mount:
        os.sync()  # the empty file system is on the disk
        launch = start(mount)
        wanted, begun = dice.randint(0, 6), time.monotonic()
        while launch.poll() is None and len(list(mount.glob("store/**/commits/000001.json"))) < wanted:
            assert time.monotonic() - begun < 100
        with contextlib.suppress(subprocess.TimeoutExpired):
            launch.wait(timeout=dice.random() * 0.2)
        launch.send_signal(signal.SIGSTOP)
        shutil.copyfile(disk, cut)
        launch.kill()
        launch.communicate()
    with power_cuts.mounted(cut, tmp_path / "after") as mount:
        store = LocalStore(str(mount / "store"))
        committed = check_commits(store)
        again = start(mount)
        output, _ = again.communicate(timeout=100)
        assert again.returncode == 0, output
        after = check_commits(store)
        assert committed.items() <= after.items() and len(after) == 6
    print(f"\n{kind} {number}: cut after {wanted} commits, {len(committed)} on the disk")


def check_commits(store: LocalStore) -> dict[str, str]:
    """The digest of each step's commit; checks that its output is whole."""
    found = {}
    for directory in step_directories(store):
        commit = read_state(store, directory).commit
        if commit is not None:
            output = attempt_path(store, directory, commit.attempt)
            files = [list(file) for file in store.files(output)]
            assert hashlib.sha256(canonical_json(files).encode()).hexdigest() == commit.digest, output
            assert json.loads(Path(output, ".files.json").read_text()), output
            assert json.loads(Path(output, ".record.json").read_text())["exit"] == "ok"
            found[directory] = commit.digest
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return whole_store(tmp_path_factory.mktemp("whole") / "store")


@pytest.mark.parametrize("number", range(ROUNDS))
def test_five_damaged_files(whole, tmp_path, number):
    """One after the other, each in a store of its own: no command and no launch ends in an uncaught exception, and
    what was said to be wrong is a file of ours."""
    dice = random.Random(f"damage {SEED} {number}")
    for each in range(5):
        store = Path(shutil.copytree(whole, tmp_path / str(each), symlinks=True))
        file, kind = dice.choice(our_files(store)), dice.choice([*DAMAGES, "directory"])
        damage(file, kind, dice)
        for words in dice.sample(COMMANDS, 4):
            code, errors = run_command(store, words)
            assert code in (0, 1, 2) and (code == 0 or errors), (file, kind, words)
            if "expected the JSON" in errors:
                assert str(file) in errors, (file, kind, words, errors)
        launch(store)
        shutil.rmtree(store)


RAY_SCRIPT = """
    import os, threading
    from pathlib import Path
    from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path

    @step_fn(kind="link")
    def link(config):
        with open("bodies.txt", "a") as log:
            log.write(f"{config['number']} {os.getpid()}\\n")
        if os.environ.get("HOLD") == str(config["number"]) and Path("gate").is_fifo():
            open("gate", "w").close()
            threading.Event().wait()
        before = Path(config["before"], "text.txt").read_text() if config["before"] else ""
        Path(config["out"], "text.txt").write_text(before + str(config["number"]))

    last = None
    for number in range(6):
        last = ExecutorStep(f"link{number}", link, {"number": number, "before": last, "out": this_output_path()})
    executor_main(steps=[last])
"""


@pytest.mark.parametrize("number", range(max(1, ROUNDS // 20)))
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_kill_9_on_ray(tmp_path, number, victim):
    """The driver, or the process of a running step, dies at a random step of a chain."""
    held = random.Random(f"ray {SEED} {victim} {number}").randrange(6)
    (tmp_path / "script.py").write_text(textwrap.dedent(RAY_SCRIPT))
    os.mkfifo(tmp_path / "gate")
    command = [sys.executable, "script.py", "--prefix", "store"]
    env = {**os.environ, "HOLD": str(held)}
    launch = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    open(tmp_path / "gate").close()  # the held step runs
    (tmp_path / "gate").unlink()
    worker = int((tmp_path / "bodies.txt").read_text().split()[-1])
    os.kill(launch.pid if victim == "driver" else worker, signal.SIGKILL)
    launch.communicate(timeout=120)
    if victim == "driver":
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120).returncode == 0
    else:
        assert launch.returncode == 0, "a lost worker is retried in the same launch"
    assert (next(tmp_path.glob("store/link5-*")) / "latest" / "text.txt").read_text() == "012345"
    bodies = [int(line.split()[0]) for line in (tmp_path / "bodies.txt").read_text().splitlines()]
    assert bodies == [*range(held + 1), *range(held, 6)]
    for commits in Path(tmp_path).glob("store/link*/commits"):
        assert [json.loads(path.read_text())["number"] for path in commits.glob("*.json")] == [1]


def wait_for(look):
    """What `look` finds first."""
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come about in two minutes")


def process_named(name: str, below: int) -> int | None:
    return next((pid for pid, each in descendants(below).items() if each == name), None)


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_ray_dies_while_a_launch_starts(tmp_path, name):
    """One paragraph, exit code 2, no failed step, and no process left; the same command works after."""
    (tmp_path / "script.py").write_text(textwrap.dedent(RAY_SCRIPT))
    command = [sys.executable, "script.py", "--prefix", "store"]
    launch = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    victim = wait_for(lambda: process_named(name, launch.pid))
    time.sleep(0.5)  # seen by the launch, too
    seen = {pid: ProcessIdentity.of(pid) for pid in descendants(launch.pid)}
    os.kill(victim, signal.SIGKILL)
    _, errors = launch.communicate(timeout=120)
    assert launch.returncode == 2 and errors.count("\n") == 1, errors
    assert errors.startswith(f"error: Ray did not start on this machine: its {name} has ended.")
    wait_for(lambda: all(process.is_gone() for process in seen.values()))
    assert not list(tmp_path.glob("store/link0-*")), "no step was begun"
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120).returncode == 0


def test_the_raylet_dies_while_a_step_runs(tmp_path):
    """The step ends; for the next one Ray is started again, and no step counts as failed."""
    (tmp_path / "script.py").write_text(textwrap.dedent(RAY_SCRIPT))
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = [sys.executable, "script.py", "--prefix", "store"]
    env = {**os.environ, "HOLD": "1"}
    launch = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    open(gate).close()  # the step runs; then it waits for ever
    os.kill(wait_for(lambda: process_named("raylet", launch.pid)), signal.SIGKILL)
    gate.unlink()
    worker = int((tmp_path / "bodies.txt").read_text().split()[-1])
    os.kill(worker, signal.SIGKILL)
    output, _ = launch.communicate(timeout=240)
    assert launch.returncode == 0 and "Ray on this machine has died; restarting it" in output
    assert "6 steps run, 0 cached, 0 not finished" in output
