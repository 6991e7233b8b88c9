"""The loss and the rewards of held-out pairs, measured while training."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import haliax as hax
import numpy as np

from marin_sft.data.batches import validation_components
from marin_sft.data.mixture import read_mixture
from marin_sft.data.pair_batches import PairValidation
from marin_sft.data.tokenize import VALIDATION
from marin_sft.training import levanter_trainer
from marin_sft.training.axes import MICRO
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.objective import Layout
from marin_sft.training.pair_loss import PairLoss, pair_arrays
from marin_sft.training.references import References


class DPOValidation:
    """Figures of the validation pairs of each component, or of those of its first `max_evaluation_steps` batches.

    `losses` is the loss that training minimises.
    """

    def __init__(self, config: DPOConfig, layout: Layout, trainer: Any, losses: PairLoss, names: list[str]) -> None:
        self._trainer = trainer
        self._sets = {
            name: PairValidation(
                config.mixture,
                config.tokenized,
                name,
                config.train_batch_size,
                rows_multiple=layout.devices,
                share_prefix=bool(config.share_prefix),
            )
            for name in names
        }
        about, most = read_mixture(config.mixture)["components"], config.max_evaluation_steps
        self._batches = most
        self._pairs = {name: about[name][VALIDATION]["pairs"] for name in names}
        if most is not None:
            self._pairs = {name: min(pairs, most * config.train_batch_size) for name, pairs in self._pairs.items()}
        self._references = {
            name: References(config.reference_logprobs, config.mixture, batches.components, VALIDATION)
            for name, batches in self._sets.items()
            if config.reference_logprobs
        }

        def figures(state: Any, batch: Mapping[str, hax.NamedArray]) -> Mapping[str, Any]:
            model = trainer.mp.cast_to_compute(eqx.nn.inference_mode(state.model))
            averaged = state.model_averaging
            reference = None if averaged is None else trainer.mp.cast_to_compute(averaged.model_params)
            with hax.axis_mapping(trainer.compute_axis_mapping):
                whole = {name: array[MICRO, 0] for name, array in batch.items()}
                loss, others = losses(model, whole, None, reference)
            return {"loss": loss, **others}

        self._figures = hax.named_jit(figures, axis_resources=trainer.compute_axis_mapping, out_axis_resources={})

    @staticmethod
    def of(config: DPOConfig, layout: Layout, trainer: Any, losses: PairLoss) -> Any:
        """What to call with the train state; None where the mixture keeps nothing out."""
        names = validation_components(config.mixture)
        return DPOValidation(config, layout, trainer, losses, names).measure if names else None

    def measure(self, state: Any) -> dict[str, float]:
        """Figures by name, under `eval/`: means over the pairs, and under `eval/{component}/` over those of each, where
        there are several. To be called within the trainer's context."""
        found = {name: self._of_component(name, state) for name in self._sets}
        total, keys = sum(self._pairs.values()), next(iter(found.values()))
        means = {f"eval/{key}": sum(found[name][key] * self._pairs[name] for name in found) / total for key in keys}
        if len(found) == 1:
            return means
        of_each = {f"eval/{name}/{key}": value for name, some in found.items() for key, value in some.items()}
        return means | of_each

    def _of_component(self, name: str, state: Any) -> dict[str, float]:
        """Means over batches, weighted by their pairs."""
        sums: dict[str, float] = {}
        for batch in itertools.islice(self._sets[name], self._batches):
            arrays = pair_arrays(batch, self._references.get(name))
            pairs = float(arrays["totals"][0, 0])
            figures = self._figures(state, levanter_trainer.to_devices(self._trainer, arrays))
            for key, value in figures.items():
                sums[key] = sums.get(key, 0.0) + float(np.asarray(value)) * pairs
        return {key: value / self._pairs[name] for key, value in sums.items()}
