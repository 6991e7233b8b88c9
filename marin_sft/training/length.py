"""How long a training is: its steps, its epochs, and both in words."""

from __future__ import annotations

import math

from marin_sft.data.batches.epochs import Epochs
from marin_sft.training.optimization.schedules import without_rounding
from marin_sft.training.train_config import TrainConfig


def epochs_of(config: TrainConfig, examples: int) -> Epochs:
    """Of as many examples as the data make, `examples`, or as the config says."""
    steps = config.per_epoch_training_steps
    in_epoch = examples if steps is None else steps * config.train_batch_size
    return Epochs(in_epoch, config.train_batch_size, config.cuts_epochs)


def num_steps_of(config: TrainConfig, examples: int) -> int:
    """Optimizer steps of the whole run; for epochs, as many as transformers' Trainer takes."""
    if config.num_train_steps is not None:
        return config.num_train_steps
    assert config.num_train_epochs is not None
    return max(1, math.ceil(without_rounding(config.num_train_epochs * epochs_of(config, examples).steps)))


def length_text(epochs: Epochs, num_steps: int, examples: str) -> str:
    """What `num_steps` train, in words; a batch larger than the data makes it a warning. `examples`: rows or pairs."""
    passes = _counted(epochs.before(num_steps) / epochs.examples, "epoch")
    text = f"training for {passes} of {epochs.examples:,} {examples}: {_counted(num_steps, 'step')}"
    left = epochs.examples % epochs.batch_size
    if epochs.batch_size > epochs.examples:
        takes = "takes all of them" if epochs.cut else f"takes each {epochs.batch_size / epochs.examples:.3g} times"
        return (
            f"warning: {text}; train_batch_size = {epochs.batch_size:,} is more than the {epochs.examples:,} "
            f"{examples} there are, and each step {takes}"
        )
    last = f", the last of an epoch of {left:,}" if epochs.cut and left and num_steps >= epochs.steps else ""
    return f"{text} of {epochs.batch_size:,} {examples}{last}"


def _counted(number: float, noun: str) -> str:
    return f"{number:,.4g} {noun}" if number == 1 else f"{number:,.4g} {noun}s"
