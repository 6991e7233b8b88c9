"""The loss and the rewards of held-out pairs, measured during training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import equinox as eqx
import haliax as hax
import jax
import numpy as np
from levanter.trainer import Trainer
from levanter.trainer_state import TrainerState

from marin_sft.data.batches.pair_batches import PairValidation
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.tokenize import VALIDATION
from marin_sft.training import levanter_trainer
from marin_sft.training.axes import MICRO
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.objective import Layout
from marin_sft.training.pair_loss import PairLoss, pair_arrays
from marin_sft.training.references import References

PairArrays: TypeAlias = Mapping[str, np.ndarray]
"""What `pair_arrays` returns."""


@dataclass(frozen=True)
class _HeldOut:
    """`pair_arrays` of a component's validation pairs, or of its first `most` batches."""

    batches: PairValidation
    references: References | None
    most: int | None

    def __iter__(self) -> Iterator[PairArrays]:
        return (pair_arrays(batch, self.references) for batch in itertools.islice(self.batches, self.most))


def held_out(config: DPOConfig, mixture: PackedMixture, layout: Layout) -> dict[str, Iterable[PairArrays]]:
    """The pairs that the mixture holds out of training, by component."""

    def of_component(name: str) -> _HeldOut:
        batches = PairValidation(
            mixture,
            name,
            config.train_batch_size,
            micro_batches=layout.micro_steps,  # so evaluation fits in memory if training does
            rows_multiple=layout.devices,
            share_prefix=bool(config.share_prefix),
        )
        path = config.reference_logprobs
        references = References(path, mixture, VALIDATION) if path else None
        return _HeldOut(batches, references, config.max_evaluation_steps)

    return {name: of_component(name) for name in mixture.validated}


class DPOValidation:
    """Measures `sets` of pairs, by name. Each is iterated over once per measurement.

    `losses`: the loss that training minimises. `name`: the prefix of the figures' names.
    """

    def __init__(
        self, sets: Mapping[str, Iterable[PairArrays]], trainer: Trainer, losses: PairLoss, name: str = "eval"
    ) -> None:
        self._sets, self._trainer, self._losses, self._name = sets, trainer, losses, name

        def figures(state: TrainerState, batch: Mapping[str, hax.NamedArray]) -> Mapping[str, jax.Array]:
            model = trainer.mp.cast_to_compute(eqx.nn.inference_mode(state.model))
            averaged = state.model_averaging
            reference = None if averaged is None else trainer.mp.cast_to_compute(averaged.model_params)
            with hax.axis_mapping(trainer.compute_axis_mapping):
                loss, others = losses(model, {name: array[MICRO, 0] for name, array in batch.items()}, None, reference)
            return {"loss": loss, **others}

        self._figures = hax.named_jit(figures, axis_resources=trainer.compute_axis_mapping, out_axis_resources={})

    def measure(self, state: TrainerState) -> dict[str, float]:
        """Means over all pairs as `{name}/...` and, if there are several sets, over each set as `{name}/{set}/...`.

        Call it within the trainer's context.
        """
        measured = {name: [self._measured(state, arrays) for arrays in some] for name, some in self._sets.items()}
        of_all = self._losses.together([of_batch for some in measured.values() for of_batch in some])
        means = {f"{self._name}/{key}": value for key, value in of_all.items()}
        if len(measured) == 1:
            return means
        for name, some in measured.items():
            means |= {f"{self._name}/{name}/{key}": value for key, value in self._losses.together(some).items()}
        return means

    def _measured(self, state: TrainerState, arrays: PairArrays) -> tuple[dict[str, float], np.ndarray]:
        """The figures of a batch, summed over its micro-batches, and its `totals`."""
        sums: dict[str, float] = {}
        for i in range(len(arrays["totals"])):
            micro = {name: array[i : i + 1] for name, array in arrays.items()}
            figures = self._figures(state, levanter_trainer.to_devices(self._trainer, micro))
            sums = {name: sums.get(name, 0.0) + float(np.asarray(value)) for name, value in figures.items()}
        return sums, arrays["totals"][0]
