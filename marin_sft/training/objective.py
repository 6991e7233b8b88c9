"""The interface of what is trained: the loss and the batches, as `train_run` needs them from SFT, DPO and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import haliax as hax
import jax
import numpy as np
from levanter.models.lm_model import LmHeadModel
from levanter.optim.model_averaging import ModelAveraging
from levanter.trainer import Trainer
from levanter.trainer_state import TrainerState

Figures: TypeAlias = dict[str, jax.Array]
"""Scalars of a batch by name. Those of micro-batches add up to those of the global batch."""
Evaluate: TypeAlias = Callable[[TrainerState], Mapping[str, float]]
"""From the train state to figures of held-out data, under the names with which they are logged."""


@dataclass(frozen=True)
class Layout:
    """How a step is spread: over `devices` with different rows, in `micro_steps` micro-batches one after another."""

    devices: int
    micro_steps: int


class Objective(Protocol):
    """What to train on, and with which loss. A step's batch must depend on the number of the step only.

    example_name: for logging `{example_name}_per_second` in addition to tokens. None: it is not logged.
    examples_per_epoch: the number of examples in an epoch.
    """

    example_name: str | None

    @property
    def examples_per_epoch(self) -> int: ...

    def arrays(self, step: int, part: int, parts: int) -> dict[str, np.ndarray]:
        """The batch of a step on the host. Arrays are [micro-batch, row, token] with the `part`-th of `parts` equal
        slices of the rows, or [micro-batch, anything], the same in each process. `segment_ids` is -1 for padding."""
        ...

    def tokens(self, step: int) -> int | None:
        """Tokens in the rows of the whole batch. None: as many as run on the devices, because rows share none."""
        ...

    def trained_tokens(self, step: int) -> int:
        """Trained tokens in the whole batch. A step without any changes nothing."""
        ...

    def digest(self, step: int) -> str:
        """Digest of the step's data, to check that a resumed run continues with the same data."""
        ...

    def loss(
        self, model: LmHeadModel, batch: Mapping[str, hax.NamedArray], key: jax.Array, reference: LmHeadModel | None
    ) -> tuple[jax.Array, Figures]:
        """The share of a micro-batch in the loss of the global batch, a scalar, and figures to log with it.

        `reference`: the weights of the `ModelAveraging` from `reference`. None: there is none.
        """
        ...

    def reference(self, trainer: Trainer) -> ModelAveraging | None:
        """A second model to keep in the train state. None: there is none."""
        ...

    def evaluation(self, trainer: Trainer) -> Evaluate | None:
        """What to measure during training. None: nothing is held out."""
        ...

    def figures_of_loss(self, loss: float) -> Mapping[str, float]:
        """Figures to log that follow from the loss of a step."""
        ...

    def check(self, step: int, figures: Mapping[str, float]) -> None:
        """Called with what is logged for a step. Raises TrainingError if it cannot be right."""
        ...
