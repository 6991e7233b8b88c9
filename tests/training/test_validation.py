import json

import numpy as np
import optax
import pytest

from marin_sft.errors import TrainingError
from marin_sft.training import levanter_trainer, validation
from marin_sft.training.axes import BATCH
from marin_sft.training.fakes import CountingBatches, pack
from marin_sft.training.loss import row_nll
from marin_sft.training.models import levanter_model
from marin_sft.training.sft import train
from marin_sft.training.validation import Validation
from tests.training.small_runs import sft_config

A, B, C = [5, 9, 12, 7], [30, 31, 8], [20, 4, 6, 19, 11, 40, 3]
SETS = {"long": [pack([[A], [C]], 8), pack([[C], []], 8)], "short": [pack([[B], [A, B]], 8)]}


def config(base_model, output, **fields):
    settings = {"train_batch_size": 2, "gradient_checkpointing": True}
    return sft_config(base_model, output, **{**settings, **fields})


def mean_nll(model, documents):
    """Of all tokens but the first of each document, one document at a time."""
    losses = []
    for document in documents:
        logits = np.asarray(levanter_model.logits(model, np.array([document], np.int32)), np.float64)[0]
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses += [-log_probs[i, token] for i, token in enumerate(document[1:])]
    return np.mean(losses)


def losses_of(base_model, sets, micro_steps=1):
    trainer = levanter_trainer.build_trainer(levanter_trainer.trainer_config(precision="fp32", seed=0), optax.sgd(0.1))
    model = levanter_model.load_model(base_model)
    with trainer:
        return Validation(sets, trainer, micro_steps).losses(model)


@pytest.mark.parametrize("micro_steps", [1, 2])
def test_it_is_the_mean_over_tokens_of_each_set_and_of_all(base_model, micro_steps):
    losses, model = losses_of(base_model, SETS, micro_steps), levanter_model.load_model(base_model)
    assert losses["validation/loss/long"] == pytest.approx(mean_nll(model, [A, C, C]), abs=1e-5)
    assert losses["validation/loss/short"] == pytest.approx(mean_nll(model, [B, A, B]), abs=1e-5)
    assert losses["validation/loss"] == pytest.approx(mean_nll(model, [A, C, C, B, A, B]), abs=1e-5)


def test_a_component_without_trained_tokens_is_named(base_model):
    nothing = {**SETS, "silent": [pack([[[5]], [[9]]], 8)]}
    with pytest.raises(TrainingError, match="validation: no token of component 'silent' is trained"):
        losses_of(base_model, nothing)


def test_it_needs_no_more_memory_than_training(base_model, tmp_path, monkeypatch):
    """A micro-batch goes through the model at a time."""
    rows = []

    def seen(model, batch):
        rows.append(batch.tokens.resolve_axis(BATCH).size)
        return row_nll(model, batch)

    monkeypatch.setattr(validation, "row_nll", seen)
    trained(base_model, tmp_path, per_device_parallelism=1, steps_per_eval=4)
    assert set(rows) == {1}


def trained(base_model, output, **fields):
    batches = CountingBatches(vocab_size=40, batch_size=2, length=16)
    train(config(base_model, output, **fields), batches, SETS)
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line for line in map(json.loads, lines)}


def test_it_is_logged_as_often_as_asked_and_changes_nothing(base_model, tmp_path):
    often, never = trained(base_model, tmp_path / "a", steps_per_eval=3), trained(base_model, tmp_path / "b")
    assert [step for step, line in often.items() if "validation/loss" in line] == [3, 4]
    assert not any("validation/loss" in line for line in never.values())
    assert often[4]["loss"] == never[4]["loss"]
    summary = json.loads((tmp_path / "a/metrics.json").read_text())
    assert summary["validation/loss"] == often[4]["validation/loss"] != often[3]["validation/loss"]
