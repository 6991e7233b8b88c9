import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from marin_sft.data.batches.packed_batches import PackedBatches
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.execution.step import unversioned
from marin_sft.training import train_run
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.sft import sft as run
from marin_sft.training.sft import train
from marin_sft.training.sft_config import SFTConfig
from tests.training.small_runs import chat_mixture, logged, sft_config

BATCHES = CountingBatches(vocab_size=40, batch_size=4, length=16)


def config_for(base_model: str, output: Path, **changes) -> SFTConfig:
    return sft_config(base_model, output, **{"num_train_steps": 6, "weight_decay": 0.1, **changes})


def tensors_of(output: Path) -> dict[str, np.ndarray]:
    return dict(ModelDirectory(str(output / "model")).tensors())


@pytest.fixture(scope="module")
def trained(base_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    train(config_for(base_model, output), BATCHES)
    return output


def test_trains_logs_and_leaves_only_the_model(trained):
    lines = logged(trained)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[0]["loss"] == pytest.approx(math.log(47), rel=0.1)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["epoch"] == 6 * 4 / 64
    assert lines[-1]["trained_tokens"] == sum(BATCHES.batch(step).trained_tokens for step in range(6))
    assert lines[0]["grad_norm"] > 0 and lines[-1]["tokens_per_second"] > 0
    assert lines[-1]["lr"] < 1e-2
    assert sorted(path.name for path in trained.iterdir()) == ["metrics.json", "metrics.jsonl", "model"]


@pytest.mark.parametrize(("precision", "rounding"), [("bf16", 0.02), ("bf16_full", 0.05)])
def test_bf16_with_recomputation_trains_too(trained, base_model, tmp_path, precision, rounding):
    train(config_for(base_model, tmp_path, precision=precision, gradient_checkpointing=True), BATCHES)
    for one, other in zip(logged(trained), logged(tmp_path), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=rounding)
    assert all(tensor.dtype == np.float32 for tensor in tensors_of(tmp_path).values())


def test_on_a_cpu_a_step_begins_when_the_one_before_has_ended(base_model, tmp_path, monkeypatch):
    """Two under way hold twice the memory there."""
    step_function, taken, ended = train_run.step_function, [], []

    def watched(*given):
        take_step = step_function(*given)

        def step(state, batch):
            ended.extend(metrics.loss.is_ready() for metrics in taken[-1:])
            state, metrics = take_step(state, batch)
            taken.append(metrics)
            return state, metrics

        return step

    monkeypatch.setattr(train_run, "step_function", watched)
    train(config_for(base_model, tmp_path), BATCHES)
    assert ended == [True] * 5


def test_a_loss_that_is_not_finite_stops_with_the_step(base_model, tmp_path):
    explodes = dict(learning_rate=1e38, max_grad_norm=None, warmup=0.0)
    with pytest.raises(TrainingError, match=r"at step 2 \(batch 1\).*learning_rate"):
        train(config_for(base_model, tmp_path, **explodes), BATCHES)


def test_weights_that_are_not_finite_are_never_written(base_model, tmp_path):
    explodes = dict(learning_rate=1e39, max_grad_norm=None, warmup=0.0)  # the loss of step 1 is still finite
    with pytest.raises(TrainingError, match=r"not finite after step 1 \(batch 0\)"):
        train(config_for(base_model, tmp_path, steps_per_checkpoint=1, **explodes), BATCHES)
    with pytest.raises(TrainingError, match=r"not finite after step 1 \(batch 0\)"):
        train(config_for(base_model, tmp_path, num_train_steps=1, **explodes), BATCHES)
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "model").exists()


def test_batches_that_do_not_fit_the_model_or_the_devices(base_model, tmp_path):
    with pytest.raises(TrainingError, match="token id 99, expected ids below 47"):
        train(config_for(base_model, tmp_path), CountingBatches(vocab_size=100, batch_size=4, length=30))
    with pytest.raises(TrainingError, match="rows of 64 tokens, expected at most 32"):
        train(config_for(base_model, tmp_path), CountingBatches(vocab_size=40, batch_size=4, length=64))
    with pytest.raises(TrainingError, match="train_batch_size = 4"):
        train(config_for(base_model, tmp_path, per_device_parallelism=3), BATCHES)


class NothingTrained(CountingBatches):
    """Step 3 (batch 2) has no trained token."""

    def batch(self, step: int, part: int = 0, parts: int = 1):
        batch = super().batch(step, part, parts)
        return dataclasses.replace(batch, loss_weight=batch.loss_weight * (step != 2))


def test_a_batch_without_trained_tokens_changes_nothing(base_model, tmp_path):
    train(config_for(base_model, tmp_path, lr_schedule="constant"), NothingTrained(40, 4, 16))
    with_nothing = logged(tmp_path)
    assert with_nothing[2]["loss"] == with_nothing[2]["grad_norm"] == 0
    assert with_nothing[2]["trained_tokens"] == with_nothing[1]["trained_tokens"]
    assert with_nothing[2]["lr"] == with_nothing[1]["lr"]
    assert all(math.isfinite(line["loss"]) and line["loss"] > 0 for line in with_nothing if line["step"] != 3)


class Spike(CountingBatches):
    """Step 6 (batch 5) weighs its tokens a hundredfold."""

    def batch(self, step: int, part: int = 0, parts: int = 1):
        batch = super().batch(step, part, parts)
        return dataclasses.replace(batch, loss_weight=batch.loss_weight * (100 if step == 5 else 1))

    def trained_tokens(self, step: int) -> int:
        return super().batch(step).trained_tokens


def test_a_skipped_step_changes_nothing_and_is_counted(base_model, tmp_path):
    for steps in (5, 6):
        skips = {"skip_bad_steps": 4, "num_train_steps": steps, "lr_schedule": "constant", "warmup": 0.0}
        train(config_for(base_model, tmp_path / str(steps), **skips), Spike(40, 4, 16))
    lines = logged(tmp_path / "6")
    assert lines[5]["loss"] > 20 * lines[4]["loss"]
    assert lines[5]["skipped_steps"] == lines[4]["skipped_steps"] + 1 < 5  # losses of four steps are much alike
    before, after = (tensors_of(tmp_path / str(steps)) for steps in (5, 6))
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_logged_gradient_norm_is_that_before_clipping(base_model, tmp_path):
    train(config_for(base_model, tmp_path / "clipped", max_grad_norm=1e-3, num_train_steps=1), BATCHES)
    train(config_for(base_model, tmp_path / "not", max_grad_norm=None, num_train_steps=1), BATCHES)
    clipped, free = (logged(tmp_path / name)[0] for name in ("clipped", "not"))
    assert clipped["grad_norm"] == free["grad_norm"] > 0.1


def test_epochs_count_rows(base_model, tmp_path):
    batches = dataclasses.replace(BATCHES, rows_per_epoch=10)
    train(config_for(base_model, tmp_path, num_train_steps=None, num_train_epochs=1), batches)
    assert logged(tmp_path)[-1]["step"] == 3  # ceil(10 / 4)


@pytest.mark.parametrize("per_device_parallelism", [-1, 1])  # 1: a micro-batch for each row, some of padding alone
def test_an_epoch_ends_with_the_rows_that_are_left(base_model, tmp_path, capsys, per_device_parallelism):
    mixed, tokenized = chat_mixture(tmp_path, base_model, {"some": 6}, {"some": 1})
    fields = {
        "mixture": mixed,
        "tokenized": tokenized,
        "num_train_steps": None,
        "num_train_epochs": 2,
        "learning_rate": 1e-12,  # so that the base model has the loss of each step
        "per_device_parallelism": per_device_parallelism,
    }
    run(config_for(base_model, tmp_path / "run", **fields))
    assert "training for 2 epochs of 6 rows: 4 steps of 4 rows, the last of an epoch of 2\n" in capsys.readouterr().out
    lines = logged(tmp_path / "run")
    assert [line["epoch"] for line in lines] == pytest.approx([4 / 6, 1, 10 / 6, 2])
    one_by_one = PackedBatches(PackedMixture.open(mixed, tokenized), 1)  # the same order, a row a batch
    rows = [one_by_one.batch(i) for i in range(12)]
    model = levanter_model.load_model(base_model)
    for line, some in zip(lines, (rows[:4], rows[4:6], rows[6:10], rows[10:]), strict=True):
        log_probs = jax.nn.log_softmax(levanter_model.logits(model, np.concatenate([row.tokens for row in some])))
        nlls = [
            -float(log_probs[r, i, row.tokens[0, i + 1]])
            for r, row in enumerate(some)
            for i in np.flatnonzero(row.loss_weight[0])
        ]
        assert line["loss"] == pytest.approx(np.mean(nlls), rel=1e-5)
        assert 0 < line["grad_norm"] < 10
    assert lines[1]["trained_tokens"] == sum(row.trained_tokens for row in rows[:6]) == lines[3]["trained_tokens"] / 2


def test_config_values_are_checked_by_name():
    def build(**changes):
        return config_for("base", Path("out"), **changes)

    with pytest.raises(ConfigError, match=r"SFTConfig.lr_schedule = 'sine': expected one of"):
        build(lr_schedule="sine")
    with pytest.raises(ConfigError, match="at least one"):
        build(num_train_steps=None)
    with pytest.raises(ConfigError, match=r"SFTConfig.warmup = 100"):
        build(warmup=100)
    assert build(learning_rate=unversioned(1e-3)).num_train_steps == 6
