"""Long runs of random crashes and races: `make torture`. ROUNDS sets the number of rounds of each kind, SEED the dice.

After every round: no two commits for one number, no half-written output taken for a whole one, no finished output lost,
each body run as often as the kills allow and no oftener.
"""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import fsspec
import pytest

from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
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
