"""Training that is killed and goes on ends in the same bits, and what cannot go on says so."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from marin_sft import progress
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.export.periodic import PeriodicExports
from marin_sft.training import checkpoints
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.models import Qwen3Config
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig
from marin_sft.training.sft import sft as run
from marin_sft.training.sft import train
from marin_sft.training.sft_config import SFTConfig
from tests.training.small_runs import chat_mixture, logged, sft_config

BATCHES = CountingBatches(vocab_size=40, batch_size=4, length=16)
STEPS = 12


def config_for(base_model: str, output: Path, *earlier: Path, **changes) -> SFTConfig:
    fields = {"num_train_steps": 6, "weight_decay": 0.1, "steps_per_checkpoint": 2, **changes}
    return sft_config(base_model, output, *earlier, **fields)


def lines_of(output: Path) -> list[dict]:
    return [{name: value for name, value in line.items() if "per_second" not in name} for line in logged(output)]


def assert_same_bits(one: Path, other: Path) -> None:
    expected, got = (dict(ModelDirectory(str(output / "model")).tensors()) for output in (one, other))
    assert expected.keys() == got.keys()
    assert all(np.array_equal(expected[name], got[name]) for name in expected)
    assert lines_of(one) == lines_of(other)


@pytest.fixture(scope="module")
def blend(base_model, tmp_path_factory):
    """SFTConfig for a mixture of two components with 5 and 3 rows, the small one seen more often: epochs of three steps
    with 3, 3 and 2 rows."""
    root = tmp_path_factory.mktemp("blend")
    mixed, tokenized = chat_mixture(root, base_model, {"long": 5, "short": 3}, {"long": 1, "short": 2})
    return dataclasses.replace(
        config_for(base_model, root / "whole"),
        mixture=mixed,
        tokenized=tokenized,
        train_batch_size=3,
        num_train_steps=None,
        num_train_epochs=4,
    )


KILLED = """
import os, signal, sys, threading
from marin_sft import progress
from marin_sft.training import checkpoints
from marin_sft.training.sft import sft as run
from test_resume import config_from

after, within_checkpoint = int(sys.argv[2]), sys.argv[3] == "1"

def kill(update):
    if update.done == after:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":  # which is written while training goes on
                thread.join()
        os.kill(os.getpid(), signal.SIGKILL)

finish = checkpoints.finish

def killed_before_the_mark(output_path, step, about):
    if within_checkpoint and step == after:
        os.kill(os.getpid(), signal.SIGKILL)
    finish(output_path, step, about)

checkpoints.finish = killed_before_the_mark
with progress.listening((lambda update: None) if within_checkpoint else kill):
    run(config_from(sys.argv[1]))
"""


def config_from(text: str) -> SFTConfig:
    fields = json.loads(text)
    return SFTConfig(**{**fields, "earlier_attempts": tuple(fields["earlier_attempts"])})


def run_killed(config: SFTConfig, after: int, *, within_checkpoint: bool = False) -> None:
    """`run` in a process that kills itself once step `after` is logged, or while its checkpoint is written."""
    arguments = [json.dumps(dataclasses.asdict(config)), str(after), str(int(within_checkpoint))]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "JAX_PLATFORMS": "cpu",
    }
    process = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment)
    assert process.returncode == -signal.SIGKILL


def test_killed_three_times_it_ends_in_the_same_bits(blend, tmp_path):
    run(dataclasses.replace(blend, steps_per_checkpoint=None))
    whole = Path(blend.output_path)
    assert logged(whole)[-1]["step"] == STEPS and logged(whole)[-1]["epoch"] == 4
    assert len({line["lr"] for line in logged(whole)}) > 8

    attempts = [tmp_path / str(i) for i in range(1, 5)]

    def attempt(i: int) -> SFTConfig:
        earlier = tuple(str(path) for path in reversed(attempts[:i]))
        return dataclasses.replace(blend, output_path=str(attempts[i]), earlier_attempts=earlier)

    run_killed(attempt(0), after=5)  # goes on from step 4: the middle of epoch 2
    run_killed(attempt(1), after=6, within_checkpoint=True)  # its only checkpoint has no mark: from step 4 again
    run_killed(attempt(2), after=7)  # goes on from step 6: its end
    run(attempt(3))
    assert [newest_step(path) for path in attempts] == [4, None, 6, None]
    assert_same_bits(whole, attempts[3])


def newest_step(output: Path) -> int | None:
    found = checkpoints.newest([str(output)])
    return found and found.step


class Preempted(Exception):
    pass


def preempt_at(step: int):
    def listener(update: progress.Progress) -> None:
        if update.done == step:
            raise Preempted

    return progress.listening(listener)


@pytest.fixture(scope="module")
def preempted_once(base_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("preempted")
    with preempt_at(5), pytest.raises(Preempted):
        train(config_for(base_model, output), BATCHES)
    return output


@pytest.fixture
def preempted(preempted_once, tmp_path):
    """An attempt that ended after step 5, with checkpoints of steps 2 and 4."""
    return Path(shutil.copytree(preempted_once, tmp_path / "1"))


@pytest.fixture(scope="module")
def uninterrupted(base_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    train(config_for(base_model, output, steps_per_checkpoint=None), BATCHES)
    return output


def test_the_two_newest_checkpoints_are_kept_until_the_model_is_written(preempted, uninterrupted, base_model, tmp_path):
    assert sorted(path.name for path in (preempted / "checkpoints").iterdir()) == ["step-2", "step-4"]
    second = tmp_path / "2"
    train(config_for(base_model, second, preempted), BATCHES)
    assert not (second / "checkpoints").exists()
    assert_same_bits(uninterrupted, second)


def test_under_a_prefix_with_any_characters(base_model, tmp_path):
    strange, whole = tmp_path / "lr=[1e-4]*::y", tmp_path / "whole"
    with preempt_at(5), pytest.raises(Preempted):
        train(config_for(base_model, strange / "1"), BATCHES)
    assert newest_step(strange / "1") == 4
    shutil.copytree(base_model, strange / "base")
    train(config_for(str(strange / "base"), strange / "2", strange / "1"), BATCHES)
    assert not (strange / "2/checkpoints").exists()
    train(config_for(base_model, whole, steps_per_checkpoint=None), BATCHES)
    assert_same_bits(whole, strange / "2")


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def flip(path: Path) -> None:
    """64 bytes, or all there are, in the middle."""
    data = bytearray(path.read_bytes())
    for i in range(max(len(data) // 2 - 32, 0), min(len(data) // 2 + 32, len(data))):
        data[i] ^= 0xFF
    path.write_bytes(data)


DAMAGES = {
    "flipped": flip,
    "a byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_of_a_checkpoint_is_found(preempted, capsys, damage):
    files = files_of(preempted / "checkpoints/step-4")
    assert {"checkpoint.json", "metadata.json", "manifest.ocdbt"} < {path.name for path in files} and len(files) > 3
    for path in files:
        before = path.read_bytes()
        DAMAGES[damage](path)
        assert newest_step(preempted) == 2, path
        told = capsys.readouterr().err
        assert "step-4" in told and (path.name in told or (path.name == checkpoints.MARK and "never finished" in told))
        path.write_bytes(before)
        assert newest_step(preempted) == 4


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(preempted, uninterrupted, base_model, tmp_path, capsys):
    flip(sorted((preempted / "checkpoints/step-4").rglob("d/*"))[0])
    train(config_for(base_model, tmp_path / "2", preempted), BATCHES)
    assert_same_bits(uninterrupted, tmp_path / "2")
    told = capsys.readouterr().err
    assert "step-4: " in told and "has changed since it was written" in told
    assert f"going on from {preempted}/checkpoints/step-2\n" in told


def test_so_is_one_that_cannot_be_read(preempted, uninterrupted, base_model, tmp_path, capsys):
    for data in (preempted / "checkpoints/step-4").rglob("d/*"):
        data.write_bytes(bytes(data.stat().st_size))
    checkpoints.finish(str(preempted), 4, checkpoints.read(str(preempted), 4).about)  # it was written like that
    train(config_for(base_model, tmp_path / "2", preempted), BATCHES)
    assert_same_bits(uninterrupted, tmp_path / "2")
    assert "step-4: cannot restore the train state: " in capsys.readouterr().err


@pytest.mark.parametrize("damage", DAMAGES)
def test_when_all_are_damaged_it_does_not_start_over(preempted, base_model, tmp_path, damage):
    for data in (preempted / "checkpoints").rglob("d/*"):
        DAMAGES[damage](data)
    with pytest.raises(TrainingError, match=r"all checkpoints are damaged: .*step-4: .*step-2: .*--force_run"):
        train(config_for(base_model, tmp_path / "2", preempted), BATCHES)


def test_nor_when_all_marks_are_empty(preempted):
    """As a power cut left them; one that was killed before its mark has none."""
    for mark in preempted.rglob(checkpoints.MARK):
        mark.write_bytes(b"")
    with pytest.raises(TrainingError, match=r"step-4: checkpoint.json is damaged; .*step-2: .*--force_run"):
        newest_step(preempted)


def test_all_that_a_resume_needs_is_on_the_disk_before_the_mark(tmp_path, monkeypatch):
    checkpoint = Path(checkpoints.checkpoint_path(str(tmp_path), 3))
    for path in (checkpoint / "d/data", checkpoint / "metadata.json", tmp_path / "hf/step-3/x", tmp_path / "log"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("some")
    synced = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), (checkpoint / checkpoints.MARK).exists()))

    monkeypatch.setattr(os, "fsync", seen)
    checkpoints.finish(str(tmp_path), 3, {})
    before = {path for path, marked in synced if not marked}
    assert {str(path) for path in (tmp_path, *tmp_path.rglob("*")) if path.name != checkpoints.MARK} <= before
    assert any(Path(path).name.startswith(f".{checkpoints.MARK}") for path in before)  # before it gets its name
    assert synced[-1] == (str(checkpoint), True)


def test_an_unfinished_checkpoint_is_passed_over(preempted, capsys):
    (preempted / "checkpoints" / "step-5").mkdir()
    assert newest_step(preempted) == 4
    assert "step-5 was never finished" in capsys.readouterr().err
    for mark in preempted.rglob(checkpoints.MARK):
        mark.unlink()
    assert newest_step(preempted) is None


def test_an_unfinished_checkpoint_takes_no_place_of_those_kept(tmp_path):
    for step, whole in ((1, True), (2, False), (3, True), (4, True), (5, False)):
        path = Path(checkpoints.checkpoint_path(str(tmp_path), step))
        path.mkdir(parents=True)
        (path / "state").write_text("some")
        if whole:
            checkpoints.finish(str(tmp_path), step, {})

    def left(keep: int) -> list[str]:
        checkpoints.remove(str(tmp_path), keep)
        return sorted(path.name for path in tmp_path.glob("checkpoints/*"))

    assert left(3) == ["step-1", "step-2", "step-3", "step-4", "step-5"]
    assert left(2) == ["step-3", "step-4", "step-5"]
    assert left(1) == ["step-4", "step-5"] and newest_step(tmp_path) == 4
    assert left(0) == []


def test_another_config_or_other_data_are_loud(preempted, base_model, tmp_path):
    changed = config_for(base_model, tmp_path / "2", preempted, learning_rate=1e-3, num_train_steps=8)
    with pytest.raises(TrainingError, match=r"learning_rate was 0.01 and is 0.001; num_steps was 6 and is 8; .*undo"):
        train(changed, BATCHES)
    with pytest.raises(TrainingError, match=r"step-4: the data of step 4 are not the same; undo the change"):
        train(config_for(base_model, tmp_path / "2", preempted), dataclasses.replace(BATCHES, vocab_size=39))
    execution = config_for(base_model, tmp_path / "3", preempted, per_device_parallelism=2, steps_per_log=3)
    train(execution, BATCHES)


def test_another_shape_is_loud(preempted, tmp_path, tokenizer_path):
    wider = str(tmp_path / "wider")
    shape = Qwen3Config(
        max_seq_len=32, hidden_dim=32, intermediate_dim=96, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16
    )
    random_model(RandomModelConfig(model=shape, tokenizer=tokenizer_path, output_path=wider))
    with pytest.raises(TrainingError, match="cannot restore the train state"):
        train(config_for(wider, tmp_path / "2", preempted), BATCHES)


@pytest.fixture(scope="module")
def with_states(base_model, tmp_path_factory):
    """A finished training that exported after steps 3 and 6, each with its training state."""
    output = tmp_path_factory.mktemp("states")
    train(config_for(base_model, output, hf_exports=every_three(base_model), save_optimizer_state=True), BATCHES)
    return output


def every_three(base_model: str) -> PeriodicExports:
    return PeriodicExports(base_model=base_model, steps=3)


def test_a_state_kept_in_an_export_outlives_training_and_ends_in_the_same_bits(
    with_states, uninterrupted, base_model, tmp_path
):
    state = tmp_path / "published" / "checkpoint-3"
    shutil.copytree(with_states / "hf/step-3", state)
    settings = {"hf_exports": every_three(base_model), "save_optimizer_state": True, "hf_exports_kept": 1}
    resumed = config_for(base_model, tmp_path / "resumed", resume_from=str(state), **settings)
    reports = []
    with progress.listening(reports.append):
        train(resumed, BATCHES)
    assert [report.done for report in reports] == [3, 4, 5, 6] and reports[0].doing == "compiling"
    assert_same_bits(uninterrupted, tmp_path / "resumed")
    assert [path.name for path in (tmp_path / "resumed/hf").iterdir()] == ["step-6"]
    assert newest_step(tmp_path / "resumed/hf/step-6") == 6


def test_a_state_of_another_training_or_none_is_refused_and_says_what_to_do(with_states, base_model, tmp_path):
    state = str(with_states / "hf/step-3")
    longer = config_for(base_model, tmp_path / "2", resume_from=state, num_train_steps=8)
    with pytest.raises(TrainingError, match=rf"num_steps was 6 and is 8; .*undo .* start a new .*base_model='{state}'"):
        train(longer, BATCHES)
    none = config_for(base_model, tmp_path / "3", resume_from=f"{with_states}/hf/step-4")
    with pytest.raises(TrainingError, match=r"step-4': no training state there; .*/hf has step-3, step-6\. "):
        train(none, BATCHES)
    with pytest.raises(ConfigError, match="save_optimizer_state = True: expected False without exports"):
        config_for(base_model, tmp_path / "4", save_optimizer_state=True)


def test_a_training_that_stops_on_the_way_goes_on_to_the_same_bits(base_model, uninterrupted, tmp_path):
    """Its learning rates are those of the whole training, whether it stops by a share of the steps or a number."""
    rungs, before = [tmp_path / "half", tmp_path / "most", tmp_path / "whole"], None
    for output, stop in zip(rungs, (0.5, 5, None), strict=True):
        train(config_for(base_model, output, stop_after=stop, resume_from=before), BATCHES)
        before = str(output)
    assert [[line["step"] for line in logged(output)][-1] for output in rungs] == [3, 5, 6]
    assert [checkpoints.newest([str(output)]) and newest_step(output) for output in rungs] == [3, 5, None]
    assert [line["lr"] for line in logged(rungs[2])] == [line["lr"] for line in logged(uninterrupted)]
    assert_same_bits(uninterrupted, rungs[2])


def test_a_stop_that_was_lost_at_its_end_still_keeps_its_state(base_model, tmp_path):
    train(config_for(base_model, tmp_path / "1", stop_after=3), BATCHES)
    train(config_for(base_model, tmp_path / "2", tmp_path / "1", stop_after=3), BATCHES)
    assert newest_step(tmp_path / "2") == 3


@pytest.mark.parametrize("stop", [0, -1, 0.0, 1.5])
def test_a_stop_that_is_no_part_of_a_training_is_refused(base_model, stop):
    with pytest.raises(ConfigError, match="stop_after = .*: expected a whole number of steps, a fraction"):
        config_for(base_model, Path("unused"), stop_after=stop)
