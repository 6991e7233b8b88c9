"""Ray on a host of a training is told to end, as when the host is about to be taken away.

PREEMPTIONS sets how often in a row.
"""

import os
import random

import pytest

from tests.hosts.hosts import impossible
from tests.hosts.training import Training

pytestmark = [pytest.mark.torture, pytest.mark.skipif(bool(reason := impossible()), reason=str(reason))]
PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "3"))
SEED = os.environ.get("SEED", "0")
STEPS = 100


def test_each_preemption_is_a_checkpoint_and_no_step_is_lost(ray, prepared, undisturbed, tmp_path):
    """It checkpoints within three steps of the notice, the next attempt goes on from there, and it ends."""
    dice = random.Random(f"preempt {SEED}")
    training = Training(ray, prepared, tmp_path / "store", CHECKPOINT="1000")
    kept = [0]
    for attempt in range(1, PREEMPTIONS + 1):
        training.await_step(attempt, kept[-1] + 1)
        victim = dice.choice(training.hosts(attempt))
        told = ray.terminate(victim)
        at = training.steps(attempt)[-1]
        training.await_claim(attempt + 1)
        kept.append(training.checkpoint(attempt))
        assert at <= kept[-1] <= at + 3
        assert training.steps(attempt) == [*range(1, kept[-1] + 1)]
        assert training.metrics(attempt)[: kept[-2]] == training.metrics(attempt - 1), "no step is taken twice"
        told.wait(timeout=60)
        ray.replace(victim)
    assert training.finish() == undisturbed
    assert training.steps(PREEMPTIONS + 1) == [*range(1, STEPS + 1)]
    assert ray.placement_groups() == []
    print(f"\n{PREEMPTIONS} preemptions, after which there were checkpoints of steps {kept[1:]}")
