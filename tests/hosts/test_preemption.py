"""Ray on a host of a training is told to end, as when the host is about to be taken away.

PREEMPTIONS sets how often in a row.
"""

import os
import random
import signal
import statistics
import time

import pytest

from tests.hosts.hosts import impossible, pid_inside
from tests.hosts.training import Training

pytestmark = [pytest.mark.torture, pytest.mark.skipif(bool(reason := impossible()), reason=str(reason))]
PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "3"))
SEED = os.environ.get("SEED", "0")
STEPS = 20 * PREEMPTIONS  # one preemption takes up to that many


def test_each_preemption_is_a_checkpoint_and_no_step_is_lost(ray, prepared, tmp_path):
    """It checkpoints within three steps of the notice, the next attempt goes on from there, and it ends."""
    dice = random.Random(f"preempt {SEED}")
    settings = {"CHECKPOINT": "100000", "STEPS": str(STEPS)}
    undisturbed = Training(ray, prepared, tmp_path / "undisturbed", **settings).finish()
    training = Training(ray, prepared, tmp_path / "store", **settings)
    kept, seconds = [0], []
    for attempt in range(1, PREEMPTIONS + 1):
        training.await_step(attempt, kept[-1] + 1)
        victim = dice.choice(training.hosts(attempt))
        told = ray.terminate(victim)
        told_at = time.monotonic()
        noticed = training.await_log(attempt, "this host will be taken away")
        training.await_claim(attempt + 1)
        seconds.append(time.monotonic() - told_at)
        kept.append(training.checkpoint(attempt))
        assert noticed <= kept[-1] <= noticed + 3
        assert training.steps(attempt) == [*range(1, kept[-1] + 1)]
        assert training.metrics(attempt)[: kept[-2]] == training.metrics(attempt - 1), "no step is taken twice"
        told.wait(timeout=60)
        ray.replace(victim)
    assert training.finish() == undisturbed
    assert training.steps(PREEMPTIONS + 1) == [*range(1, STEPS + 1)]
    assert ray.placement_groups() == []
    print(f"\n{PREEMPTIONS} preemptions: kept steps {kept[1:]}; next claim after {statistics.median(seconds):.0f} s")


def test_a_host_is_taken_away_before_the_first_step(ray, prepared, undisturbed, tmp_path):
    training = Training(ray, prepared, tmp_path / "store", CHECKPOINT="1000")
    victim = training.await_hosts(1)[1]
    ray.terminate(victim).wait(timeout=120)
    training.await_claim(2)
    ray.replace(victim)
    assert training.finish() == undisturbed
    assert ray.placement_groups() == []


def test_the_launch_is_told_to_end(ray, prepared, undisturbed, tmp_path):
    """SIGTERM to it: it checkpoints, releases its claim and its hosts. The same command goes on from there."""
    training = Training(ray, prepared, tmp_path / "store", CHECKPOINT="1000")
    training.await_step(1, 10)
    os.kill(pid_inside(training.launch), signal.SIGTERM)
    assert training.launch.wait(timeout=120) == 130
    kept = training.checkpoint(1)
    assert training.steps(1) == [*range(1, kept + 1)] and kept >= 10
    assert ray.placement_groups() == []
    training.start()
    assert training.finish() == undisturbed
    assert training.metrics(2)[:kept] == training.metrics(1), "no step is taken twice"
