import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from marin_sft import progress
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.execution.step import unversioned
from marin_sft.training import checkpoints, hf_directory
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.models import Qwen3Config
from marin_sft.training.random_model import RandomModelConfig, random_model
from marin_sft.training.sft import SFTConfig
from marin_sft.training.sft_run import train

BATCHES = CountingBatches(vocab_size=40, batch_size=4, length=16)


def config_for(base_model: str, output: Path, **changes) -> SFTConfig:
    config = SFTConfig(
        mixture="unused",
        tokenized={},
        base_model=base_model,
        output_path=str(output),
        earlier_attempts=(),
        train_batch_size=4,
        num_train_steps=6,
        learning_rate=1e-2,
        weight_decay=0.1,
        precision="fp32",
        gradient_checkpointing=False,
        steps_per_log=1,
    )
    return dataclasses.replace(config, **changes)


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def tensors_of(output: Path) -> dict[str, np.ndarray]:
    return hf_directory.read_tensors(str(output / "model"))


@pytest.fixture(scope="module")
def trained(base_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    train(config_for(base_model, output), BATCHES)
    return output


def test_trains_logs_and_leaves_only_the_model(trained):
    lines = lines_of(trained)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[0]["loss"] == pytest.approx(math.log(47), rel=0.1)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["epoch"] == 6 * 4 / 64
    assert lines[-1]["trained_tokens"] == sum(BATCHES.batch(step).trained_tokens for step in range(6))
    assert lines[0]["grad_norm"] > 0 and lines[-1]["tokens_per_second"] > 0
    assert lines[-1]["lr"] < 1e-2
    assert sorted(path.name for path in trained.iterdir()) == ["metrics.json", "metrics.jsonl", "model"]


@pytest.mark.parametrize("per_device_parallelism", [1, 2])
def test_accumulation_changes_nothing(trained, base_model, tmp_path, per_device_parallelism):
    train(config_for(base_model, tmp_path, per_device_parallelism=per_device_parallelism), BATCHES)
    for one, other in zip(lines_of(trained), lines_of(tmp_path), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], abs=1e-5)


def test_two_devices_compute_what_one_does(trained, base_model, tmp_path):
    code = (
        "import sys, jax; from pathlib import Path; from test_sft import BATCHES, config_for, train;"
        "assert jax.device_count() == 2;"
        "train(config_for(sys.argv[1], Path(sys.argv[2]), per_device_parallelism=1), BATCHES)"
    )
    flags = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
    }
    subprocess.run([sys.executable, "-c", code, base_model, str(tmp_path)], check=True, env={**os.environ, **flags})
    for one, other in zip(lines_of(trained), lines_of(tmp_path), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], abs=1e-5)


def test_bf16_with_recomputation_trains_too(trained, base_model, tmp_path):
    train(config_for(base_model, tmp_path, precision="bf16", gradient_checkpointing=True), BATCHES)
    for one, other in zip(lines_of(trained), lines_of(tmp_path), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.02)
    assert all(tensor.dtype == np.float32 for tensor in tensors_of(tmp_path).values())


class Preempted(Exception):
    pass


def preempt_at(step: int):
    def listener(update: progress.Progress) -> None:
        if update.done == step:
            raise Preempted

    return progress.listening(listener)


def test_a_resumed_run_ends_in_the_same_bits(trained, base_model, tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    with preempt_at(5), pytest.raises(Preempted):
        train(config_for(base_model, first, steps_per_checkpoint=2), BATCHES)
    assert [path.name for path in (first / "checkpoints").iterdir()] == ["step-4"]

    train(config_for(base_model, second, earlier_attempts=(str(first),)), BATCHES)

    whole, resumed = tensors_of(trained), tensors_of(second)
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    timing = {"tokens_per_second"}
    drop = lambda line: {key: value for key, value in line.items() if key not in timing}  # noqa: E731
    assert [drop(line) for line in lines_of(second)] == [drop(line) for line in lines_of(trained)]


def test_an_incomplete_checkpoint_is_passed_over_and_a_broken_one_is_loud(base_model, tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    with preempt_at(3), pytest.raises(Preempted):
        train(config_for(base_model, first, steps_per_checkpoint=2), BATCHES)
    (first / "checkpoints" / "step-5").mkdir()
    found = checkpoints.newest([str(first)])
    assert found is not None and found.step == 2

    for data in (first / "checkpoints" / "step-2").rglob("d/*"):
        data.unlink()
    with pytest.raises(TrainingError, match=r"cannot restore the train state .*step-2.*--force_run"):
        train(config_for(base_model, second, earlier_attempts=(str(first),)), BATCHES)


def test_a_checkpoint_of_another_shape_is_loud(base_model, tmp_path, tokenizer_path):
    first, wider = tmp_path / "1", str(tmp_path / "wider")
    with preempt_at(3), pytest.raises(Preempted):
        train(config_for(base_model, first, steps_per_checkpoint=2), BATCHES)
    shape = Qwen3Config(
        max_seq_len=32, hidden_dim=32, intermediate_dim=96, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16
    )
    random_model(RandomModelConfig(model=shape, tokenizer=tokenizer_path, output_path=wider))
    with pytest.raises(TrainingError, match="cannot restore the train state"):
        train(config_for(wider, tmp_path / "2", earlier_attempts=(str(first),)), BATCHES)


def test_a_loss_that_is_not_finite_stops_with_the_step(base_model, tmp_path):
    with pytest.raises(TrainingError, match=r"at step \d.*learning_rate"):
        train(config_for(base_model, tmp_path, learning_rate=1e38, max_grad_norm=None, warmup=0.0), BATCHES)


def test_batches_that_do_not_fit_the_model_or_the_devices(base_model, tmp_path):
    with pytest.raises(TrainingError, match="token id 99, expected ids below 47"):
        train(config_for(base_model, tmp_path), CountingBatches(vocab_size=100, batch_size=4, length=30))
    with pytest.raises(TrainingError, match="rows of 64 tokens, expected 4 rows of at most 32"):
        train(config_for(base_model, tmp_path), CountingBatches(vocab_size=40, batch_size=4, length=64))
    with pytest.raises(TrainingError, match="train_batch_size = 4"):
        train(config_for(base_model, tmp_path, per_device_parallelism=3), BATCHES)


def test_epochs_count_rows(base_model, tmp_path):
    batches = dataclasses.replace(BATCHES, rows_per_epoch=10)
    train(config_for(base_model, tmp_path, num_train_steps=None, num_train_epochs=1), batches)
    assert lines_of(tmp_path)[-1]["step"] == 3  # ceil(10 / 4)


def test_config_values_are_checked_by_name():
    def build(**changes):
        return config_for("base", Path("out"), **changes)

    with pytest.raises(ConfigError, match=r"SFTConfig.lr_schedule = 'sine': expected one of"):
        build(lr_schedule="sine")
    with pytest.raises(ConfigError, match="exactly one"):
        build(num_train_epochs=1)
    with pytest.raises(ConfigError, match=r"SFTConfig.warmup = 100"):
        build(warmup=100)
    assert build(learning_rate=unversioned(1e-3)).num_train_steps == 6
