"""kill -9 at every point between two store operations, and launches that race.

Each child process counts its store operations and kills itself before or after the n-th; every n is tried. Afterwards
a whole launch has to find the store in order, finish the work, and have lost nothing.
"""

import os
import signal
from pathlib import Path

import pytest

from tests.execution.launches import Launches


@pytest.fixture
def launches(tmp_path):
    return Launches(tmp_path)


def operations_of_a_launch(tmp_path: Path) -> int:
    code, output = Launches(tmp_path).run()
    assert code == 0, output
    return int(output.rpartition("operations: ")[2])


@pytest.mark.parametrize("after", ["0", "1"], ids=["before", "after"])
def test_killed_at_every_store_operation(tmp_path, after):
    (tmp_path / "whole").mkdir()
    total = operations_of_a_launch(tmp_path / "whole")
    assert total > 15
    for at in range(1, total + 1):
        (tmp_path / str(at)).mkdir()
        launches = Launches(tmp_path / str(at))
        code, output = launches.run(KILL_AT=str(at), KILL_AFTER=after)
        assert code == -signal.SIGKILL, f"operation {at}: {output}"
        before = launches.commits()
        code, output = launches.run()
        assert code == 0, f"operation {at}: {output}"
        assert before.items() <= launches.commits().items(), "a finished output was lost"
        launches.check_finished(kills=1)


def test_killed_again_and_again(launches):
    """Each launch dies a little later than the one before; progress is never lost."""
    kills, seen = 0, {}
    for at in range(1, 200):
        code, output = launches.run(KILL_AT=str(at))
        assert seen.items() <= launches.commits().items()
        seen = launches.commits()
        if code == 0:
            break
        kills += 1
    assert code == 0 and kills > 10
    launches.check_finished(kills)


@pytest.mark.parametrize("count", [2, 10])
def test_launches_at_once_run_each_body_once(launches, count):
    os.mkfifo(launches.path / "gate")
    processes = [launches.start(GATE="gate") for _ in range(count)]
    with open(launches.path / "gate", "w"):  # opens when all read; then all go on
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    launches.check_finished(kills=0)


def test_forced_reruns_at_once_make_one_commit_each_number(launches):
    assert launches.run()[0] == 0
    os.mkfifo(launches.path / "gate")
    processes = [launches.start("--force_run", "a", GATE="gate") for _ in range(4)]
    with open(launches.path / "gate", "w"):
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    numbers = sorted(int(Path(path).stem) for path in launches.commits() if "/a-" in path)
    assert numbers == list(range(1, len(numbers) + 1))
    assert launches.bodies().count("a") == len(numbers), "each run of the body became a commit"
    assert launches.bodies().count("b") == 1
