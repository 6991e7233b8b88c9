"""The loss and the rewards of held-out pairs, measured while training."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import haliax as hax
import numpy as np

from marin_sft.data.batches.packed_batches import validation_components
from marin_sft.data.batches.pair_batches import PairValidation
from marin_sft.data.tokenize import VALIDATION
from marin_sft.training import levanter_trainer
from marin_sft.training.axes import MICRO
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.objective import Layout
from marin_sft.training.pair_loss import PairLoss, pair_arrays
from marin_sft.training.references import References

_PAIRS = "pairs"


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
        self._most = config.max_evaluation_steps
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
        sums = {name: self._sums(name, state) for name in self._sets}
        keys = [key for key in next(iter(sums.values())) if key != _PAIRS]
        total = {key: sum(of_component[key] for of_component in sums.values()) for key in (*keys, _PAIRS)}
        means = {f"eval/{key}": total[key] / total[_PAIRS] for key in keys}
        if len(sums) == 1:
            return means
        of_each = {f"eval/{name}/{key}": some[key] / some[_PAIRS] for name, some in sums.items() for key in keys}
        return means | of_each

    def _sums(self, name: str, state: Any) -> dict[str, float]:
        """Over the pairs of a component that are measured; their number as `_PAIRS`."""
        sums: dict[str, float] = {}
        for batch in itertools.islice(self._sets[name], self._most):
            arrays = pair_arrays(batch, self._references.get(name))
            pairs = float(arrays["totals"][0, 0])
            figures = self._figures(state, levanter_trainer.to_devices(self._trainer, arrays))
            here = {key: float(np.asarray(value)) * pairs for key, value in figures.items()} | {_PAIRS: pairs}
            sums = {key: sums.get(key, 0.0) + value for key, value in here.items()}
        return sums
