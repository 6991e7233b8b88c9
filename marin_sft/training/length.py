"""How long to train: the settings, the steps and epochs, and both in words. Light: no JAX."""

from __future__ import annotations

import math

from marin_sft.arguments import part_of_config
from marin_sft.data.batches.epochs import Epochs
from marin_sft.errors import ConfigError
from marin_sft.execution.step import omitted_when
from marin_sft.training.checks import require
from marin_sft.training.optimization.schedule_settings import without_rounding


@part_of_config
class LengthSettings:
    """How long to train, in steps of how many examples. With both `num_train_epochs` and `num_train_steps`, the
    shorter one ends training."""

    train_batch_size: int
    """Examples per step over all devices."""

    num_train_epochs: float | None = None
    """Epochs. An epoch is as many examples as the mixture's training components hold. Its last batch is what is left,
    as in transformers."""

    num_train_steps: int | None = None
    """Optimizer steps. Without `num_train_epochs`, every batch is full and goes on into the next epoch."""

    per_epoch_training_steps: int | None = omitted_when(None, default=None)
    """Steps that count as one epoch. None: one pass over the data."""

    def check_length(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        if self.num_train_epochs is None and self.num_train_steps is None:
            raise ConfigError(
                f"{type(self).__name__}: neither num_train_epochs nor num_train_steps; expected at least one of them"
            )
        for length in ("num_train_epochs", "num_train_steps"):
            given = getattr(self, length)
            require(self, length, given is None or given > 0, "a number above 0, or None")
        require(self, "train_batch_size", self.train_batch_size >= 1, "at least 1")
        steps = self.per_epoch_training_steps
        require(self, "per_epoch_training_steps", steps is None or steps >= 1, "at least 1, or None")
        by_epochs = steps is None or self.num_train_epochs is not None
        require(self, "per_epoch_training_steps", by_epochs, "None where num_train_epochs is not given")

    @property
    def cuts_epochs(self) -> bool:
        """See `Epochs.cut`."""
        return self.num_train_epochs is not None and self.per_epoch_training_steps is None


def epochs_of(settings: LengthSettings, examples: int) -> Epochs:
    """Epochs of `examples` examples, as many as the data make, unless the settings define an epoch."""
    steps = settings.per_epoch_training_steps
    in_epoch = examples if steps is None else steps * settings.train_batch_size
    return Epochs(in_epoch, settings.train_batch_size, settings.cuts_epochs)


def num_steps_of(settings: LengthSettings, examples: int) -> int:
    """Optimizer steps of the whole run. Epochs make as many as in transformers' Trainer."""
    most = settings.num_train_steps
    if settings.num_train_epochs is None:
        assert most is not None
        return most
    steps = max(1, math.ceil(without_rounding(settings.num_train_epochs * epochs_of(settings, examples).steps)))
    return steps if most is None else min(steps, most)


def end_of(stop_after: int | float | None, num_steps: int) -> int:
    """The last step of a training that stops after a part of its `num_steps`. At least one is trained."""
    if stop_after is None:
        return num_steps
    part = round(without_rounding(stop_after * num_steps)) if isinstance(stop_after, float) else stop_after
    return min(num_steps, max(1, part))


def length_text(epochs: Epochs, num_steps: int, examples: str) -> str:
    """What `num_steps` train, in words; a warning if a batch is larger than the data. `examples`: rows or pairs."""
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
