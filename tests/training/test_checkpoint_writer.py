"""Checkpoints are written while training goes on, and hold the state of their step."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from marin_sft import progress
from marin_sft.training import checkpoints, host_memory, levanter_trainer
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.sft import train
from tests.training.small_runs import sft_config
from tests.training.test_resume import assert_same_bits

BATCHES = CountingBatches(vocab_size=40, batch_size=4, length=16)
STEPS = 8


def config_for(base_model: str, output: Path, *earlier: Path, **changes):
    return sft_config(base_model, output, *earlier, num_train_steps=STEPS, weight_decay=0.1, **changes)


@pytest.fixture(scope="module")
def whole(base_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    train(config_for(base_model, output), BATCHES)
    return output


class Stopped(Exception):
    pass


@pytest.fixture
def held(monkeypatch):
    """`held(step)`: the writing of a checkpoint does not begin before that step is settled, at which training stops.
    Gives the steps that were settled when writing began."""
    run_serialization, settled, begun = levanter_trainer.run_serialization, [0], []

    def hold(step: int):
        reached = threading.Event()

        def listen(update: progress.Progress) -> None:
            settled.append(int(update.done))
            if update.done == step:
                reached.set()
                raise Stopped

        def late(*arguments):
            assert reached.wait(60)
            begun.append(settled[-1])
            run_serialization(*arguments)

        monkeypatch.setattr(levanter_trainer, "run_serialization", late)
        return progress.listening(listen), begun

    yield hold
    monkeypatch.undo()


def test_later_steps_do_not_change_what_is_written(held, whole, base_model, tmp_path, monkeypatch):
    listening, begun = held(6)
    with listening, pytest.raises(Stopped):
        train(config_for(base_model, tmp_path / "1", steps_per_checkpoint=3), BATCHES)
    assert begun == [6]
    monkeypatch.undo()
    start = checkpoints.newest([str(tmp_path / "1")])
    assert start is not None and start.step == 3
    train(config_for(base_model, tmp_path / "2", tmp_path / "1"), BATCHES)
    assert_same_bits(whole, tmp_path / "2")


def test_without_room_for_a_copy_training_waits(whole, base_model, tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "_free", lambda: iter([2**20]))
    assert not host_memory.has_room(2**30)
    train(config_for(base_model, tmp_path / "1", steps_per_checkpoint=3), BATCHES)
    assert_same_bits(whole, tmp_path / "1")


@pytest.mark.parametrize("steps", [3, STEPS - 1])
def test_what_cannot_be_written_ends_training(base_model, tmp_path, monkeypatch, steps):
    """At the next checkpoint, or at the end."""

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(levanter_trainer, "run_serialization", full)
    seen = []
    with progress.listening(lambda update: seen.append(update.done)), pytest.raises(OSError, match="No space left"):
        train(config_for(base_model, tmp_path, steps_per_checkpoint=steps), BATCHES)
    assert seen[-1] == (6 if steps == 3 else STEPS)
    assert checkpoints.newest([str(tmp_path)]) is None and not (tmp_path / "model").exists()


def test_the_room_of_this_host_is_known():
    assert host_memory.has_room(2**20) and not host_memory.has_room(2**50)


TERMINATED = """
import json, os, signal, sys
from marin_sft import errors, progress
from marin_sft.training.sft import train
from marin_sft.training.sft_config import SFTConfig
from tests.training.test_checkpoint_writer import BATCHES

def listen(update):
    if update.done == 4:
        os.kill(os.getpid(), signal.SIGTERM)

fields = json.loads(sys.argv[1])
try:
    with progress.listening(listen):
        train(SFTConfig(**{**fields, "earlier_attempts": ()}), BATCHES)
except errors.Preempted as error:
    print(error)
    sys.exit(7)
"""


def test_sigterm_leaves_a_checkpoint_to_go_on_from_in_the_same_bits(whole, base_model, tmp_path):
    fields = dataclasses.asdict(config_for(base_model, tmp_path / "1"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    child = subprocess.run(
        [sys.executable, "-c", TERMINATED, json.dumps(fields)], env=environment, capture_output=True, text=True
    )
    assert child.returncode == 7, child.stderr
    start = checkpoints.newest([str(tmp_path / "1")])
    assert start is not None and 4 <= start.step <= 7
    assert child.stdout.endswith(f"the state after step {start.step} of {STEPS} is kept: the machine is taken away\n")
    train(config_for(base_model, tmp_path / "2", tmp_path / "1"), BATCHES)
    assert_same_bits(whole, tmp_path / "2")
