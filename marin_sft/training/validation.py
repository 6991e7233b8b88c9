"""The loss on held-out rows, measured while training, and of a batch by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import haliax as hax
import numpy as np

from marin_sft.training import levanter_trainer
from marin_sft.training.axes import MICRO
from marin_sft.training.loss import Batch, LossBatch, loss_arrays, row_nll


def summed_nll(devices: Any, cast: Callable[[Any], Any] = lambda model: model) -> Callable[[Any, Batch], float]:
    """From a model and a batch on the host to the NLL of its trained tokens, summed, in nats.

    `devices`: Levanter's Trainer or its config, within whose context it is to be called. `cast`: of the weights.
    """

    def of_rows(model: Any, batch: Mapping[str, hax.NamedArray]) -> hax.NamedArray:
        whole = LossBatch(**{name: array[MICRO, 0] for name, array in batch.items()})
        return row_nll(cast(model), whole)

    # Replicated, so that each process can read it.
    compiled = hax.named_jit(of_rows, axis_resources=devices.compute_axis_mapping, out_axis_resources={})

    def nll(model: Any, batch: Batch) -> float:
        arrays = loss_arrays(batch, trained_tokens=1)  # a sum, no mean
        one_micro_batch = {name: array[None] for name, array in arrays.items()}
        rows = compiled(model, levanter_trainer.to_devices(devices, one_micro_batch))
        return float(np.asarray(rows.array).sum(dtype=np.float64))

    return nll


class Validation:
    """`sets`: the batches of each component by its name, which can be gone through again and again. `name`: of the
    figures."""

    def __init__(self, sets: Mapping[str, Iterable[Batch]], trainer: Any, name: str = "validation") -> None:
        self._sets, self._name = sets, name
        self._summed_nll = summed_nll(trainer, trainer.mp.cast_to_compute)

    def losses(self, model: Any) -> dict[str, float]:
        """NLL per trained token, in nats: `{name}/loss` over all rows, `{name}/loss/{component}` of each component.

        To be called within the trainer's context.
        """
        sums = {name: self._sums(model, batches) for name, batches in self._sets.items()}
        nll, tokens = map(sum, zip(*sums.values(), strict=True))
        loss = f"{self._name}/loss"
        by_component = {f"{loss}/{name}": nll / tokens for name, (nll, tokens) in sums.items()}
        return {loss: nll / tokens, **by_component}

    def _sums(self, model: Any, batches: Iterable[Batch]) -> tuple[float, int]:
        """NLL and number of the trained tokens."""
        nll, tokens = 0.0, 0
        for batch in batches:
            nll += self._summed_nll(model, batch)
            tokens += int((batch.loss_weight > 0).sum())
        return nll, tokens
