"""Supervised fine-tuning: a mixture of token caches and a base model -> trained weights.

{output_path}/model/            config.json and safetensors of the trained weights, float32, for `export`
{output_path}/hf/step-N/        exports for serving, if `hf_exports` asks for them
{output_path}/metrics.jsonl     one line per logged step
{output_path}/checkpoints/      state to resume from; removed once the model is written
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import haliax as hax
import jax
import numpy as np
from levanter.models.lm_model import LmHeadModel
from levanter.trainer import Trainer

from marin_sft.data.batches.packed_batches import PackedBatches, ValidationBatches
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.errors import TrainingError
from marin_sft.training.length import num_steps_of
from marin_sft.training.loss import Batch, LossBatch, loss_arrays, nll
from marin_sft.training.models.model_check import Limits, check_tokens, limits_of
from marin_sft.training.objective import Evaluate, Figures, Layout
from marin_sft.training.sft_config import SFTConfig
from marin_sft.training.train_run import train as train_on
from marin_sft.training.train_run import train_slice
from marin_sft.training.train_step import Loss
from marin_sft.training.validation import Validation, perplexity_of


class Batches(Protocol):
    """The part of `marin_sft.data.batches.packed_batches.PackedBatches` that training needs."""

    @property
    def rows_per_epoch(self) -> int: ...
    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch: ...
    def trained_tokens(self, step: int) -> int: ...


def sft(config: SFTConfig) -> None:
    """Train on the config's mixture. Resumes from the newest checkpoint of `earlier_attempts`, if there is one.

    Raises:
        TrainingError: the base model is not what its config.json says, the batch does not divide over the devices, a
            checkpoint cannot be restored, or the loss is no longer finite.
    """
    mixture = PackedMixture.open(config.mixture, config.tokenized)
    batches = PackedBatches(mixture, config.train_batch_size, config.seed, cut_epochs=config.cuts_epochs)
    batches.require_steps(num_steps_of(config, batches.rows_per_epoch))
    train(config, batches, _validation_sets(config, mixture))


def train(config: SFTConfig, batches: Batches, validation_sets: Mapping[str, Iterable[Batch]] | None = None) -> None:
    """Train on `batches` of `config.train_batch_size` rows, and write the model.

    `validation_sets`: batches of the same size, by name. Their loss is measured every `config.steps_per_eval` steps.
    """
    train_on(config, lambda layout: SFTObjective(config, batches, validation_sets or {}, layout))


class First:
    """The first `count` of `batches`, in each iteration. None: all."""

    def __init__(self, batches: Iterable[Batch], count: int | None) -> None:
        self._batches, self._count = batches, count

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(self._batches, self._count)


def loss_of(config: SFTConfig) -> Loss:
    """See `Objective.loss`."""

    def loss(
        model: LmHeadModel, batch: Mapping[str, hax.NamedArray], key: jax.Array, reference: LmHeadModel | None
    ) -> tuple[jax.Array, Figures]:
        return nll(model, LossBatch(**batch), config, key), {}

    return loss


class SFTObjective:
    """NLL per trained token of the global batch: see `marin_sft.training.loss`."""

    example_name: str | None = None  # the number of packed rows is not informative

    def __init__(
        self, config: SFTConfig, batches: Batches, validation_sets: Mapping[str, Iterable[Batch]], layout: Layout
    ) -> None:
        self._config, self._batches, self._sets, self._layout = config, batches, validation_sets, layout
        self._limits = limits_of(config.base())
        self.examples_per_epoch = batches.rows_per_epoch

    def arrays(self, step: int, part: int, parts: int) -> dict[str, np.ndarray]:
        batch = self._batches.batch(step, part, parts)
        _check_batch(batch, self._config.train_batch_size // parts, self._limits)
        arrays = loss_arrays(batch, self.trained_tokens(step))
        micro_steps = self._layout.micro_steps
        return {name: array.reshape(micro_steps, -1, array.shape[-1]) for name, array in arrays.items()}

    def tokens(self, step: int) -> None:
        """None: as many as run on the devices."""

    def trained_tokens(self, step: int) -> int:
        return self._batches.trained_tokens(step)

    def digest(self, step: int) -> str:
        batch = self._batches.batch(step)
        arrays = (batch.tokens, batch.loss_weight, batch.segment_ids, batch.position_ids)
        return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()

    def loss(
        self, model: LmHeadModel, batch: Mapping[str, hax.NamedArray], key: jax.Array, reference: LmHeadModel | None
    ) -> tuple[jax.Array, Figures]:
        return loss_of(self._config)(model, batch, key, reference)

    def reference(self, trainer: Trainer) -> None:
        return None

    def evaluation(self, trainer: Trainer) -> Evaluate | None:
        config, micro_steps = self._config, self._layout.micro_steps
        if self._sets:
            sets = {name: First(batches, config.max_evaluation_steps) for name, batches in self._sets.items()}
            validation = Validation(sets, trainer, micro_steps)
        elif config.do_eval:
            first = [self._batches.batch(step) for step in train_slice(config, self.examples_per_epoch)]
            validation = Validation({"slice": first}, trainer, micro_steps, "train")
        else:
            return None
        return lambda state: validation.losses(state.model)

    def figures_of_loss(self, loss: float) -> dict[str, float]:
        """The perplexity, where the loss is the NLL and nothing else."""
        return {} if self._config.z_loss_weight or self._config.label_smoothing else perplexity_of(loss)

    def check(self, step: int, figures: Mapping[str, float]) -> None:
        """Nothing: the loop checks that figures are finite."""


def _validation_sets(config: SFTConfig, mixture: PackedMixture) -> dict[str, Iterable[Batch]]:
    names = mixture.validated if config.eval_cadence(1) else []
    return {name: ValidationBatches(mixture, name, config.train_batch_size) for name in names}


def _check_batch(batch: Batch, batch_size: int, limits: Limits) -> None:
    rows, length = batch.tokens.shape
    if rows != batch_size:
        raise TrainingError(f"got {rows} rows in a batch, expected {batch_size}")
    check_tokens(batch.tokens, length, limits)
