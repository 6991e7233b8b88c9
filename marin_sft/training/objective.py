"""What training minimises, and on which batches: what `train_run` needs to know of SFT, of DPO, of whatever comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import haliax as hax
import jax
import numpy as np

Figures: TypeAlias = dict[str, jax.Array]
"""Scalars of a batch by name. Those of micro-batches add up to those of the global batch."""
Evaluate: TypeAlias = Callable[[Any], Mapping[str, float]]
"""From the train state to what is measured on held-out data, by the name it is logged under."""


@dataclass(frozen=True)
class Layout:
    """How a step is spread: over `devices` that hold different rows, in `micro_steps` one after another."""

    devices: int
    micro_steps: int


class Objective(Protocol):
    """`examples_per_epoch`: how many make an epoch. A step's batch depends on its number only.

    `example_name`: by which `{example_name}_per_second` is logged beside the tokens; None: it is not.
    """

    example_name: str | None

    @property
    def examples_per_epoch(self) -> int: ...

    def arrays(self, step: int, part: int, parts: int) -> dict[str, np.ndarray]:
        """The batch of a step on the host: [micro-batch, row, token], of the rows the `part`-th of `parts` equal
        slices; or [micro-batch, anything], whole for each process. `segment_ids` is -1 where there is no token."""
        ...

    def tokens(self, step: int) -> int | None:
        """That the rows of the whole batch hold; None: those that the devices are given, whose rows share none."""
        ...

    def trained_tokens(self, step: int) -> int:
        """Of the whole batch. A step without any changes nothing."""
        ...

    def digest(self, step: int) -> str:
        """Of the step's data, to tell whether a resumed run goes on with the same."""
        ...

    def loss(
        self, model: Any, batch: Mapping[str, hax.NamedArray], key: jax.Array, reference: Any
    ) -> tuple[jax.Array, Figures]:
        """The part that one micro-batch has in the loss of the global batch, a scalar, and figures to log with it.

        `reference`: another model's weights that the state keeps beside those trained; None: there are none.
        """
        ...

    def reference(self, trainer: Any) -> Any:
        """A `ModelAveraging` of Levanter's to keep in the state, whose weights are the `reference`; None: none."""
        ...

    def evaluation(self, trainer: Any) -> Evaluate | None:
        """What to measure while training; None: there is nothing held out."""
        ...

    def figures_of_loss(self, loss: float) -> Mapping[str, float]:
        """Figures to log that follow from the loss of a step."""
        ...

    def check(self, step: int, figures: Mapping[str, float]) -> None:
        """Called with what is logged for a step. Raises TrainingError if it cannot be right."""
        ...
