"""The loss on held-out rows, measured during training, and the loss of a single batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import haliax as hax
import numpy as np
from levanter.models.lm_model import LmHeadModel
from levanter.trainer import Trainer, TrainerConfig

from marin_sft.errors import TrainingError
from marin_sft.training import levanter_trainer
from marin_sft.training.axes import MICRO
from marin_sft.training.loss import Batch, LossBatch, loss_arrays, row_nll


def summed_nll(
    devices: Trainer | TrainerConfig,
    cast: Callable[[LmHeadModel], LmHeadModel] = lambda model: model,
    micro_steps: int = 1,
) -> Callable[[LmHeadModel, Batch], float]:
    """From a model and a batch on the host to the summed NLL of its trained tokens, in nats.

    `devices`: Levanter's Trainer or its config; call the function within its context. `cast`: applied to the weights.
    `micro_steps`: the number of equal parts into which a batch is split, one in memory at a time.
    """

    def of_rows(model: LmHeadModel, batch: Mapping[str, hax.NamedArray]) -> hax.NamedArray:
        ready = cast(model)

        def of_micro_batch(_: None, micro_batch: Mapping[str, hax.NamedArray]) -> tuple[None, hax.NamedArray]:
            return None, row_nll(ready, LossBatch(**micro_batch))

        return hax.scan(of_micro_batch, hax.Axis(MICRO, micro_steps))(None, dict(batch))[1]

    # Replicated, so that each process can read it.
    compiled = hax.named_jit(of_rows, axis_resources=devices.compute_axis_mapping, out_axis_resources={})

    def nll(model: LmHeadModel, batch: Batch) -> float:
        arrays = loss_arrays(batch, trained_tokens=1)  # for a sum, not a mean
        cut = {name: array.reshape(micro_steps, -1, array.shape[-1]) for name, array in arrays.items()}
        rows = compiled(model, levanter_trainer.to_devices(devices, cut))
        return float(np.asarray(rows.array).sum(dtype=np.float64))

    return nll


def perplexity_of(nll: float, name: str = "perplexity") -> dict[str, float]:
    """exp of the NLL per token, under its name; nothing where that is too large for a float."""
    try:
        return {name: math.exp(nll)}
    except OverflowError:
        return {}


class Validation:
    """sets: the batches of each component by name; iterated over in each evaluation.
    micro_steps: as in training, so that evaluation fits in memory if training does.
    name: the prefix of the figures."""

    def __init__(
        self, sets: Mapping[str, Iterable[Batch]], trainer: Trainer, micro_steps: int, name: str = "validation"
    ) -> None:
        self._sets, self._name = sets, name
        self._summed_nll = summed_nll(trainer, trainer.mp.cast_to_compute, micro_steps)

    def losses(self, model: LmHeadModel) -> dict[str, float]:
        """NLL per trained token, in nats: `{name}/loss` over all rows, `{name}/loss/{component}` of each component; and
        `{name}/perplexity` over all rows.

        Call it within the trainer's context.

        Raises:
            TrainingError: no token of a component is trained.
        """
        sums = {name: self._sums(model, batches) for name, batches in self._sets.items()}
        for name, (_, tokens) in sums.items():
            if tokens == 0:
                raise TrainingError(
                    f"{self._name}: no token of component {name!r} is trained, so it has no loss; expected rows with "
                    "an assistant's answer or other text to train on: look at them with marin-sft preview, raise "
                    "max_evaluation_steps if it is set, or hold out nothing from the component"
                )
        nll, tokens = map(sum, zip(*sums.values(), strict=True))
        loss = f"{self._name}/loss"
        by_component = {f"{loss}/{name}": nll / tokens for name, (nll, tokens) in sums.items()}
        return {loss: nll / tokens, **perplexity_of(nll / tokens, f"{self._name}/perplexity"), **by_component}

    def _sums(self, model: LmHeadModel, batches: Iterable[Batch]) -> tuple[float, int]:
        """The summed NLL, and the number of trained tokens."""
        nll, tokens = 0.0, 0
        for batch in batches:
            nll += self._summed_nll(model, batch)
            tokens += int((batch.loss_weight > 0).sum())
        return nll, tokens
