"""How a training is watched and when it ends: each of its settings in a training, or refused."""

import dataclasses
import json
import time

import numpy as np
import pytest

from marin_sft import progress
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.parts import files_of
from marin_sft.training import checkpoints
from marin_sft.training.fakes import CountingBatches, pack
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.metrics import meter
from marin_sft.training.metrics.reporting import run_name
from marin_sft.training.metrics.trackers import TensorboardConfig
from marin_sft.training.models.model_directory import ModelDirectory, write_json, writing
from marin_sft.training.sft import train
from marin_sft.training.stops import EarlyStopping
from tests.training.metrics.test_trackers import events, scalars
from tests.training.small_runs import logged, sft_config

BATCHES = CountingBatches(vocab_size=40, batch_size=2, length=16)
# Learning to count makes these worse after a while: they go backwards.
HELD_OUT = {"back": [pack([[[9, 8, 7, 6]], [[5, 4, 3]]], 16), pack([[[39, 38, 37]], [[20, 19]]], 16)]}


def config(base_model="unused", output="unused", *earlier, **fields):
    settings = {"train_batch_size": 2, "num_train_steps": 6, "learning_rate": 3e-2, "precision": "fp32", "warmup": 0.0}
    length = {"num_train_steps": None} if "num_train_epochs" in fields else {}
    fields = {**settings, "gradient_checkpointing": True, "minutes_per_checkpoint": None, **length, **fields}
    return sft_config(base_model, output, *earlier, **fields)


def test_trackers_are_told_at_a_cadence_of_their_own(base_model, tmp_path):
    every = {"steps_per_log": 2, "steps_per_report": 3, "trackers": (TensorboardConfig(),), "num_train_steps": 7}
    train(config(base_model, tmp_path, **every), BATCHES)
    assert [line["step"] for line in logged(tmp_path)] == [1, 2, 4, 6, 7]
    assert sorted({step for step, name, _ in scalars(tmp_path) if name == "loss"}) == [1, 3, 6, 7]


def test_accumulation_as_a_count_is_the_same_training(base_model, tmp_path):
    for name, fields in {"whole": {}, "parts": {"gradient_accumulation_steps": 2}}.items():
        train(config(base_model, tmp_path / name, **fields), BATCHES)
    whole, parts = (logged(tmp_path / name) for name in ("whole", "parts"))
    assert np.allclose([line["loss"] for line in whole], [line["loss"] for line in parts], rtol=1e-5)
    with pytest.raises(TrainingError, match="train_batch_size = 2: .* x gradient_accumulation_steps = 4; change one"):
        train(config(base_model, tmp_path / "x", gradient_accumulation_steps=4), BATCHES)
    with pytest.raises(ConfigError, match="gradient_accumulation_steps = 2: expected None where per_device"):
        config(gradient_accumulation_steps=2, per_device_parallelism=1)


def test_perplexity_is_told_where_the_loss_is_the_nll(base_model, tmp_path):
    train(config(base_model, tmp_path / "plain", num_train_steps=2, steps_per_eval=2), BATCHES, HELD_OUT)
    last = logged(tmp_path / "plain")[-1]
    assert last["perplexity"] == pytest.approx(np.exp(last["loss"]))
    assert last["validation/perplexity"] == pytest.approx(np.exp(last["validation/loss"]))
    train(config(base_model, tmp_path / "smooth", num_train_steps=1, label_smoothing=0.1), BATCHES)
    assert "perplexity" not in logged(tmp_path / "smooth")[-1]


def test_metrics_go_to_the_log_the_trackers_and_the_screen(base_model, tmp_path, capsys):
    watched = config(
        base_model,
        tmp_path,
        num_train_steps=3,
        trackers=(TensorboardConfig(),),
        progress_bar="json",
        track_memory=True,
        weight_distribution_log_steps=2,
        weight_distribution_pattern=r"layers\.1\.mlp\.up_proj",
    )
    reports = []
    with progress.listening(reports.append):
        train(watched, BATCHES)
    lines = logged(tmp_path)
    expected = {"step", "epoch", "loss", "lr", "grad_norm", "tokens", "trained_tokens", "tokens_per_second", "mfu"}
    assert expected <= lines[0].keys() and [line["mfu"] for line in lines] == [None] * 3  # no known peak
    assert 0.1 < lines[0]["memory/host_peak_gib"] <= lines[2]["memory/host_peak_gib"] < 100
    assert [report.done for report in reports] == [0, 1, 2, 3] and reports[3].metrics["loss"] == lines[2]["loss"]
    assert [report.doing for report in reports] == ["compiling", "", "", ""]

    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["loss"] for line in shown] == [round(line["loss"], 3) for line in lines]
    assert [line["lr"] for line in shown] == [line["lr"] for line in lines]

    tracked = {(step, name): value for step, name, value in scalars(tmp_path)}
    assert [tracked[line["step"], "loss"] for line in lines] == pytest.approx([line["loss"] for line in lines])
    name = "weights/model.layers.1.mlp.up_proj.weight"
    assert {key for key in tracked if "weights" in key[1]} == {(2, f"{name}/{f}") for f in ("mean", "std", "max_abs")}
    (histogram,) = (value for event in events(tmp_path) for value in event.summary.value if value.HasField("histo"))
    assert histogram.tag == name and histogram.histo.num == 32 * 64
    assert tracked[2, f"{name}/std"] == pytest.approx(
        dict(ModelDirectory(base_model).tensors())["model.layers.1.mlp.up_proj.weight"].std(), rel=0.2
    )


def test_a_distribution_of_no_tensor_is_told_of_before_the_first_step(base_model, tmp_path):
    watched = {"num_train_steps": 1, "trackers": (TensorboardConfig(),), "weight_distribution_log_steps": 1}
    wrong, right = config(base_model, tmp_path / "wrong"), config(base_model, tmp_path / "right")
    with pytest.raises(TrainingError, match="weight_distribution_pattern: 'lora_A' is in none of .* names like model"):
        train(dataclasses.replace(wrong, **watched, weight_distribution_pattern="lora_A"), BATCHES)
    assert not (tmp_path / "wrong").exists()
    adapted = {"lora": LoraConfig(r=2, alpha=2), "weight_distribution_pattern": "lora_A"}
    train(dataclasses.replace(right, **watched, **adapted), BATCHES)
    found = [name for _, name, _ in scalars(tmp_path / "right") if name.startswith("weights/")]
    assert found and all("lora_A" in name for name in found)


def test_early_stopping_ends_with_the_model_of_that_step(base_model, tmp_path, capsys):
    stopping = EarlyStopping(steps=2, patience=1)
    stopped = tmp_path / "stopped"
    train(config(base_model, stopped, num_train_steps=20, early_stopping=stopping), BATCHES, HELD_OUT)
    lines = logged(stopped)
    losses = [line["validation/loss"] for line in lines if "validation/loss" in line]
    assert lines[-1]["step"] == 2 * len(losses) < 20
    assert losses[-1] > losses[-2] and losses[:-1] == sorted(losses[:-1], reverse=True)
    assert f"early stopping after step {lines[-1]['step']} of 20: validation/loss is" in capsys.readouterr().out
    assert json.loads((stopped / "metrics.json").read_text())["step"] == lines[-1]["step"]

    # Evaluations before a checkpoint count in the attempt that goes on from it.
    first, second = tmp_path / "1", tmp_path / "2"
    cut = {"num_train_steps": 20, "early_stopping": stopping, "steps_per_checkpoint": lines[-1]["step"] - 1}
    with pytest.raises(TrainingError, match="training_time_limit"):
        train(config(base_model, first, **cut, training_time_limit="0.001s"), BATCHES, HELD_OUT)
    train(config(base_model, second, first, **cut), BATCHES, HELD_OUT)
    assert logged(second)[-1]["step"] == lines[-1]["step"]
    expected, got = (dict(ModelDirectory(f"{output}/model").tensors()) for output in (stopped, second))
    assert all(np.array_equal(expected[name], got[name]) for name in expected)


def test_early_stopping_on_a_figure_that_is_not_there(base_model, tmp_path):
    stopping = EarlyStopping(steps=1, patience=1, metric="accuracy")
    with pytest.raises(TrainingError, match="'accuracy': expected one of validation/loss, validation/loss/back"):
        train(config(base_model, tmp_path, early_stopping=stopping), BATCHES, HELD_OUT)
    with pytest.raises(TrainingError, match="early_stopping: the mixture holds nothing out"):
        train(config(base_model, tmp_path, early_stopping=EarlyStopping(steps=1, patience=1)), BATCHES)


def test_when_time_is_over_the_next_attempt_goes_on(base_model, tmp_path):
    whole, first, second = (tmp_path / name for name in ("whole", "1", "2"))
    train(config(base_model, whole), BATCHES)
    limited = config(base_model, first, training_time_limit="0.001s", trackers=(TensorboardConfig(),))
    with pytest.raises(TrainingError, match=r"time is over after step 1 of 6.*step-1. Run the same command again"):
        train(limited, BATCHES)
    assert not (first / "model").exists() and not (first / "metrics.json").exists()
    train(config(base_model, second, first, trackers=(TensorboardConfig(),)), BATCHES)
    expected, got = (dict(ModelDirectory(f"{output}/model").tensors()) for output in (whole, second))
    assert all(np.array_equal(expected[name], got[name]) for name in expected)
    assert [step for step, name, _ in scalars(second) if name == "loss"] == [1, 2, 3, 4, 5, 6]


def test_evaluation_on_part_of_the_data_on_training_data_and_never(base_model, tmp_path, capsys):
    some, on_training, never = (tmp_path / name for name in ("some", "on_training", "never"))
    train(config(base_model, some, steps_per_eval=6, max_evaluation_steps=1), BATCHES, HELD_OUT)
    one = {"one": HELD_OUT["back"][:1]}
    train(config(base_model, tmp_path / "one", steps_per_eval=6), BATCHES, one)
    assert logged(some)[-1]["validation/loss"] == logged(tmp_path / "one")[-1]["validation/loss"]

    by_epochs = {"num_train_epochs": 1.5, "per_epoch_training_steps": 4}
    train(config(base_model, on_training, do_eval=True, max_evaluation_steps=2, **by_epochs), BATCHES)
    last = logged(on_training)[-1]
    assert (last["step"], last["epoch"]) == (6, 1.5)
    assert 0 < last["train/loss"] < 4 and [line["step"] for line in logged(on_training) if "train/loss" in line] == [6]
    assert "holds nothing out: train/loss is the loss on the first 2 training batches" in capsys.readouterr().err

    train(config(base_model, never, steps_per_eval=2, do_eval=False, num_train_steps=2), BATCHES, HELD_OUT)
    assert not any("validation/loss" in line for line in logged(never))


class Exports:
    """Writes an empty directory for each export."""

    steps = 1

    def check(self, config):
        """None of them would fail."""

    def write(self, path, tensors, config, metrics):
        with writing(path) as local:
            write_json(local, "config.json", {"step": metrics["step"]})
            return files_of(local)


def test_so_many_checkpoints_and_exports_are_kept(base_model, tmp_path):
    kept = {"steps_per_checkpoint": 1, "hf_exports": Exports(), "hf_exports_kept": 2}

    class Stop(Exception):
        pass

    def at_the_end(update):
        if update.done == 6:
            raise Stop

    for limit, expected in ((0, [1, 2, 3, 4, 5]), (3, [3, 4, 5]), (None, [4, 5])):
        output = tmp_path / str(limit)
        with pytest.raises(Stop), progress.listening(at_the_end):
            train(config(base_model, output, save_total_limit=limit, **kept), BATCHES)
        assert sorted(int(path.name[5:]) for path in output.glob("checkpoints/step-*")) == expected
        assert sorted(path.name for path in output.glob("hf/*")) == ["step-4", "step-5"]
        assert sorted(path.name for path in output.glob(".parts/hf/*")) == ["step-4.json", "step-5.json"]


PAUSE = 2.0  # seconds


class Clock:
    """The machine's, put forward by what takes long."""

    put_forward = 0.0

    def perf_counter(self):
        return time.perf_counter() + self.put_forward


class SlowExports(Exports):
    def __init__(self, clock):
        self.clock = clock

    def write(self, *args):
        self.clock.put_forward += PAUSE
        return super().write(*args)


class SlowBatches(list):
    def __init__(self, batches, clock):
        super().__init__(batches)
        self.clock = clock

    def __iter__(self):
        self.clock.put_forward += PAUSE
        return super().__iter__()


def test_the_speed_is_that_of_training_alone(base_model, tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(meter, "time", clock)
    also = {"steps_per_eval": 1, "hf_exports": SlowExports(clock), "steps_per_checkpoint": 1}
    held_out = {"back": SlowBatches(HELD_OUT["back"], clock)}
    train(config(base_model, tmp_path, num_train_steps=3, **also), BATCHES, held_out)
    assert clock.put_forward >= 4 * PAUSE
    first, second, third = logged(tmp_path)
    assert third["tokens_per_second"] > (third["tokens"] - second["tokens"]) / PAUSE
    assert [name for name in third if "per_second" in name] == ["tokens_per_second"]

    whole = json.loads((tmp_path / "metrics.json").read_text())
    assert 0 < whole["training_seconds"] < clock.put_forward and whole["compilation_seconds"] > 0
    assert whole["tokens_per_second"] == pytest.approx(third["tokens"] / whole["training_seconds"])
    seconds = [
        (line["tokens"] - before) / line["tokens_per_second"]
        for line, before in ((first, 0), (second, first["tokens"]), (third, second["tokens"]))
    ]
    assert sum(seconds) <= whole["training_seconds"] * 1.001 < clock.put_forward


def test_the_speed_of_the_whole_run_has_that_of_its_earlier_attempts(base_model, tmp_path):
    limited = config(base_model, tmp_path / "1", num_train_steps=3, training_time_limit="0.001s")
    with pytest.raises(TrainingError, match="time is over after step 1"):
        train(limited, BATCHES)
    kept = checkpoints.newest([str(tmp_path / "1")]).about["meter"]
    assert kept["total"]["tokens"] == logged(tmp_path / "1")[0]["tokens"]
    assert kept["compilation_seconds"] > 0 and kept["training_seconds"] > 0
    train(config(base_model, tmp_path / "2", tmp_path / "1", num_train_steps=3), BATCHES)
    whole = json.loads((tmp_path / "2/metrics.json").read_text())
    assert whole["compilation_seconds"] > kept["compilation_seconds"]
    assert whole["training_seconds"] > kept["training_seconds"]
    assert whole["tokens_per_second"] == pytest.approx(whole["tokens"] / whole["training_seconds"])


def test_a_loss_that_explodes_is_said(base_model, tmp_path, capsys):
    fields = {"num_train_steps": 4, "warmup": 0.0, "max_grad_norm": None, "lr_schedule": "constant"}
    train(config(base_model, tmp_path / "wild", learning_rate=100.0, **fields), BATCHES)
    lines = logged(tmp_path / "wild")
    at = next(line["step"] for line in lines if line["loss"] > 10 * lines[0]["loss"])
    told = capsys.readouterr().err
    assert told.count("training has diverged; try a lower learning_rate") == 1
    assert f"warning: the loss of step {at} is" in told
    summary = json.loads((tmp_path / "wild/metrics.json").read_text())
    assert list(summary)[:2] == ["loss", "first_loss"] and summary["first_loss"] == lines[0]["loss"]

    train(config(base_model, tmp_path / "calm", **fields), BATCHES)
    assert "diverged" not in capsys.readouterr().err
    assert "first_loss" not in json.loads((tmp_path / "calm/metrics.json").read_text())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"training_time_limit": "90"}, "'90': expected a time above 0 with its units"),
        ({"progress_bar": "bar"}, "progress_bar = 'bar': expected one of rich, tqdm, json, none"),
        ({"per_epoch_training_steps": 4}, "expected None where num_train_epochs is not given"),
        ({"save_total_limit": -1}, "save_total_limit = -1: expected at least 0"),
        ({"weight_distribution_log_steps": 5}, "expected None without trackers"),
        ({"hf_exports_kept": 2}, "hf_exports_kept = 2: expected None without exports while training"),
        ({"max_evaluation_steps": 0}, "max_evaluation_steps = 0: expected at least 1, or None"),
        ({"weight_distribution_pattern": "("}, "expected a regular expression"),
        (
            {"early_stopping": EarlyStopping(steps=5, patience=1), "steps_per_eval": 10},
            "expected steps = 10 as in steps_per_eval, or steps_per_eval = None",
        ),
        (
            {"early_stopping": EarlyStopping(steps=5, patience=1), "do_eval": False},
            "expected None where do_eval is False",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        config(**fields)


def test_the_name_of_a_run_is_that_of_its_step():
    assert run_name("gs://bucket/checkpoints/chat-7b_seed0-0123456789/12") == "chat-7b_seed0"
    assert run_name("/tmp/out") == "out"
