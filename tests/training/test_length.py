"""How many steps a training takes, against transformers' Trainer and by counting, and what it says of them."""

import types

import pytest
from torch.utils.data import DataLoader
from transformers import Trainer

from marin_sft.training.length import epochs_of, length_text, num_steps_of
from tests.training.small_runs import sft_config


def config(batch_size, **fields):
    steps = {"num_train_steps": None} if "num_train_epochs" in fields else {}
    return sft_config("unused", train_batch_size=batch_size, **steps, **fields)


@pytest.mark.parametrize("epochs", [0.25, 0.5, 1, 1.5, 2, 3])
@pytest.mark.parametrize(("rows", "batch_size"), [(130, 128), (12, 64), (12, 8), (1280, 128), (128, 128), (1, 1)])
def test_steps_are_those_of_transformers(rows, batch_size, epochs):
    arguments = types.SimpleNamespace(max_steps=-1, num_train_epochs=epochs, gradient_accumulation_steps=1)
    loader = DataLoader(range(rows), batch_size=batch_size)
    trainer = types.SimpleNamespace(num_examples=lambda loader: len(loader.dataset))
    *_, expected = Trainer.set_initial_training_values(trainer, arguments, loader, batch_size)
    assert num_steps_of(config(batch_size, num_train_epochs=epochs), rows) == expected


@pytest.mark.parametrize(("most", "expected"), [(3, 3), (4, 4), (5, 4)])
def test_of_epochs_and_steps_the_shorter_ends_training(most, expected):
    both = sft_config("unused", num_train_epochs=2, num_train_steps=most)
    assert num_steps_of(both, 8) == expected  # batches of 4
    assert both.cuts_epochs


@pytest.mark.parametrize(("rows", "batch_size"), [(130, 128), (12, 64), (12, 8), (7, 1)])
def test_examples_before_a_step_are_those_of_the_batches_before(rows, batch_size):
    epochs = epochs_of(config(batch_size, num_train_epochs=3), rows)
    sizes = [len(batch) for batch in DataLoader(range(rows), batch_size=batch_size)] * 3
    assert [epochs.before(step) for step in range(len(sizes) + 1)] == [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    full = epochs_of(config(batch_size, num_train_steps=9), rows)
    assert [full.before(step) for step in range(10)] == [step * batch_size for step in range(10)]
    own = epochs_of(config(batch_size, num_train_epochs=3, per_epoch_training_steps=4), rows)
    assert (own.examples, own.before(12)) == (4 * batch_size, 12 * batch_size)


@pytest.mark.parametrize(
    ("rows", "fields", "said"),
    [
        (
            130,
            {"num_train_epochs": 1},
            "for 1 epoch of 130 rows: 2 steps of 128 rows, the last of an epoch of 2",
        ),
        (256, {"num_train_epochs": 3}, "training for 3 epochs of 256 rows: 6 steps of 128 rows"),
        (130, {"num_train_epochs": 0.5}, "training for 0.9846 epochs of 130 rows: 1 step of 128 rows"),
        (130, {"num_train_steps": 1000}, "training for 984.6 epochs of 130 rows: 1,000 steps of 128 rows"),
        (
            12,
            {"num_train_epochs": 2},
            "warning: training for 2 epochs of 12 rows: 2 steps; train_batch_size = 128 is more than the 12 rows there "
            "are, and each step takes all of them",
        ),
        (12, {"num_train_steps": 1}, "the 12 rows there are, and each step takes each 10.7 times"),
    ],
)
def test_what_will_be_trained_is_said(rows, fields, said):
    settings = config(128, **fields)
    text = length_text(epochs_of(settings, rows), num_steps_of(settings, rows), "rows")
    assert text.endswith(said)
