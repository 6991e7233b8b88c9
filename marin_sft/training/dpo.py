"""Direct preference optimisation: a mixture of preference pairs and a base model -> trained weights.

Writes what `marin_sft.training.sft` writes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping

import haliax as hax
import jax
import jax.numpy as jnp
import jmp
import numpy as np
from levanter.models.lm_model import LmHeadModel
from levanter.trainer import Trainer

from marin_sft.data.batches.pair_batches import PairBatches
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.tokenize import TRAIN
from marin_sft.errors import TrainingError
from marin_sft.training.activations import shares_prefix
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.dpo_validation import DPOValidation, held_out
from marin_sft.training.length import num_steps_of
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_check import check_tokens, limits_of
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.peft_directory import resolved
from marin_sft.training.objective import Evaluate, Figures, Layout
from marin_sft.training.pair_loss import PairLoss, pair_arrays
from marin_sft.training.precision import policy
from marin_sft.training.references import References
from marin_sft.training.synced_reference import SyncedReference
from marin_sft.training.train_run import train, train_slice

# How much a completion's log-probability may change when it is packed differently and summed in another order: a
# fraction of it, or, for short completions, a number of nats.
TOLERANCE = {"float32": (1e-5, 1e-4), "bfloat16": (5e-3, 0.1)}


def dpo(config: DPOConfig) -> None:
    """Train on the config's mixture. Resumes from the newest checkpoint of `earlier_attempts`, if there is one.

    Raises:
        TrainingError: as `sft`; or the reference is the model that training starts from, but the figures of the first
            step differ from the reference's.
        DataError: the mixture does not hold pairs, or not the reference's pairs.
    """
    train(config, lambda layout: DPOObjective(config, layout))


class DPOObjective:
    """A weighted sum of losses of preference pairs: see `marin_sft.training.dpo_losses`."""

    example_name: str | None = "pairs"

    def __init__(self, config: DPOConfig, layout: Layout) -> None:
        self._reference = _reference_of(config)
        self._limits = [limits_of(model) for model in (config.base(), self._reference) if model is not None]
        config = dataclasses.replace(config, share_prefix=shares_prefix(config.share_prefix, *self._limits))
        self._config = config
        self._mixture = PackedMixture.open(config.mixture, config.tokenized)
        self._batches = PairBatches(
            self._mixture,
            config.train_batch_size,
            config.seed,
            micro_batches=layout.micro_steps,
            rows_multiple=layout.devices,
            share_prefix=bool(config.share_prefix),
            cut_epochs=config.cuts_epochs,
        )
        self.examples_per_epoch = self._batches.rows_per_epoch
        self._batches.require_steps(num_steps_of(config, self.examples_per_epoch))
        self._references = (
            References(config.reference_logprobs, self._mixture, TRAIN) if config.reference_logprobs else None
        )
        self._losses = PairLoss(config)
        self._layout = layout

    def arrays(self, step: int, part: int, parts: int) -> dict[str, np.ndarray]:
        batch = self._batches.batch(step, part, parts)
        for limits in self._limits:
            check_tokens(batch.tokens, int(batch.position_ids.max(initial=0)) + 1, limits)
        return pair_arrays(batch, self._references)

    def tokens(self, step: int) -> int:
        return self._batches.tokens(step)

    def trained_tokens(self, step: int) -> int:
        return self._batches.trained_tokens(step)

    def digest(self, step: int) -> str:
        # From batches whose layout does not depend on the devices.
        config = self._config
        batches = PairBatches(self._mixture, config.train_batch_size, config.seed, cut_epochs=config.cuts_epochs)
        arrays = pair_arrays(batches.batch(step), self._references)
        contents = (np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays))
        return hashlib.sha256(b"".join(contents)).hexdigest()

    def loss(
        self, model: LmHeadModel, batch: Mapping[str, hax.NamedArray], key: jax.Array, reference: LmHeadModel | None
    ) -> tuple[jax.Array, Figures]:
        return self._losses(model, batch, key, reference)

    def reference(self, trainer: Trainer) -> SyncedReference | None:
        config = self._config
        if self._reference is None:
            return None
        if config.ref_model_sync_steps is not None and self._limits[0] != self._limits[1]:
            raise TrainingError(
                f"ref_model_sync_steps: the reference model ({config.reference_model}/config.json) cannot follow the "
                f"base model ({config.base_model}/config.json), which has another shape; expected the same shape, or "
                "ref_model_sync_steps=None"
            )
        model = levanter_model.load_model(self._reference, axis_mapping=trainer.parameter_axis_mapping)
        return SyncedReference(model, config.ref_model_sync_steps, config.ref_model_mixup_alpha)

    def evaluation(self, trainer: Trainer) -> Evaluate | None:
        sets = held_out(self._config, self._mixture, self._layout)
        if sets:
            return DPOValidation(sets, trainer, self._losses).measure
        if not self._config.do_eval:
            return None
        first = [self.arrays(step, 0, 1) for step in train_slice(self._config, self.examples_per_epoch)]
        return DPOValidation({"slice": first}, trainer, self._losses, "train").measure

    def figures_of_loss(self, loss: float) -> dict[str, float]:
        """Nothing that the loss says by itself."""
        return {}

    def check(self, step: int, figures: Mapping[str, float]) -> None:
        """At the first step, the policy is the reference, unless dropout is on: then all rewards are 0, and the loss of
        "sigmoid" is ln 2 unless pairs are weighted."""
        config = self._config
        if step != 1 or not config.starts_at_reference or _starts_with_dropout(config.lora):
            return
        computed = jnp.dtype(jmp.get_policy(policy(config.precision)).compute_dtype).name
        summed = max(abs(figures["logps/chosen"]), abs(figures["logps/rejected"]))
        part, least = TOLERANCE[computed]
        tolerance = config.beta * max(part * summed, least)
        found = {name: figures[name] for name in ("rewards/chosen", "rewards/rejected", "rewards/magnitude")}
        if config.loss_type == "sigmoid" and config.label_smoothing == 0 and not config.use_weighting:
            found["loss - ln 2"] = figures["loss"] - math.log(2)
        wrong = {name: value for name, value in found.items() if abs(value) > tolerance}
        if wrong:
            raise TrainingError(
                f"step 1: {wrong}, expected 0 (within {tolerance:.1e}), because the reference is the model that "
                "training starts from: the reference's log-probabilities are not of this model, these pairs or this "
                "precision; compute them again with --force_run for the reference's step"
            )


def _reference_of(config: DPOConfig) -> ModelDirectory | None:
    """The model in memory to compare with. `rope_scaling` is for the base model; another one has its own."""
    same = config.reference_model == config.base_model
    return None if config.reference_model is None else config.base() if same else ModelDirectory(config.reference_model)


def _starts_with_dropout(adapter: LoraConfig | None) -> bool:
    """Whether dropout changes the first step. It does not for a new adapter, which changes nothing at first."""
    return adapter is not None and adapter.adapter_path is not None and bool(resolved(adapter).dropout)
