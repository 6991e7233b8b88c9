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


class DPOValidation:
    """Figures of the validation pairs of each component, or of those of its first `max_evaluation_steps` batches.

    `losses` is the loss that training minimises. A batch goes through in micro-batches, as in training.
    """

    def __init__(self, config: DPOConfig, layout: Layout, trainer: Any, losses: PairLoss, names: list[str]) -> None:
        self._trainer = trainer
        self._sets = {
            name: PairValidation(
                config.mixture,
                config.tokenized,
                name,
                config.train_batch_size // layout.micro_steps,  # no more at once than in training
                rows_multiple=layout.devices,
                share_prefix=bool(config.share_prefix),
            )
            for name in names
        }
        most = config.max_evaluation_steps
        self._most = None if most is None else most * layout.micro_steps
        self._losses = losses
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
        measured = {name: self._measured(name, state) for name in self._sets}
        of_all = self._losses.together([of_batch for some in measured.values() for of_batch in some])
        means = {f"eval/{key}": value for key, value in of_all.items()}
        if len(measured) == 1:
            return means
        for name, some in measured.items():
            means |= {f"eval/{name}/{key}": value for key, value in self._losses.together(some).items()}
        return means

    def _measured(self, name: str, state: Any) -> list[tuple[dict[str, float], np.ndarray]]:
        """Figures and `totals` of each batch of a component."""
        found = []
        for batch in itertools.islice(self._sets[name], self._most):
            arrays = pair_arrays(batch, self._references.get(name))
            figures = self._figures(state, levanter_trainer.to_devices(self._trainer, arrays))
            found.append(({key: float(np.asarray(value)) for key, value in figures.items()}, arrays["totals"][0]))
        return found
