"""Weights that are not trained, or not from the start.

Each Hugging Face tensor is trained from the start, after as many updates as `unfreeze` says, or never. Arrays that are
never trained get no gradient and no optimizer state. If an array holds the tensors of all layers and only some are
trained, the gradients and updates of the others are set to 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import haliax as hax
import jax.numpy as jnp
import optax

from marin_sft.errors import TrainingError
from marin_sft.training.models.reinit import MATRICES
from marin_sft.training.models.tensor_names import Names, map_tensors, names_of, require_match
from marin_sft.training.train_config import TrainConfig

if TYPE_CHECKING:
    from jaxtyping import PyTree
    from levanter.models.lm_model import LmHeadModel

NEVER = 2**31 - 1


@dataclass(frozen=True)
class Freezing:
    """`trained_from(name)`: the number of updates after which the tensor is trained, or NEVER."""

    names: Names
    trained_from: Callable[[str], int]

    def trainable(self, model: LmHeadModel) -> PyTree:
        """A tree like `model`, for Levanter's trainer: whether each array is ever trained."""
        starts = lambda name: self.trained_from(name) < NEVER  # noqa: E731
        return map_tensors(lambda trained, _: _any(trained), self.names, starts, model)

    def frozen(self) -> list[str]:
        """Tensors that are never trained."""
        return [name for some in self.names.values() for name in some if self.trained_from(name) == NEVER]

    def applied_to(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """`optimizer` for the tensors that are trained at the time. Its state must begin with `train_step.Recorded`."""

        def update(
            grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra: object
        ) -> tuple[optax.Updates, optax.OptState]:
            count = state[0].updates

            def trained_now(starts: int | hax.NamedArray, array: hax.NamedArray) -> hax.NamedArray:
                now = starts <= count
                if isinstance(now, hax.NamedArray):  # one number per layer; layers are the first axis
                    now = now.array.reshape(-1, *[1] * (array.ndim - 1))
                return hax.named(jnp.where(now, array.array, 0), array.axes)

            def masked(tree: optax.Updates) -> optax.Updates:
                return map_tensors(trained_now, self.names, self.trained_from, tree)

            updates, state = optimizer.update(masked(grads), state, params, **extra)
            return masked(updates), state

        return optax.GradientTransformationExtraArgs(optimizer.init, update)


def freezing(config: TrainConfig, num_steps: int | None = None) -> Freezing | None:
    """What the config freezes with `frozen_parameters` and `unfreeze`. None: everything is trained.

    Raises:
        TrainingError: a pattern is found in no tensor's name, nothing is left to train at the start, or a tensor is
            unfrozen only after the last of `num_steps`.
    """
    frozen, thaws = config.frozen_parameters, config.unfreeze
    if frozen is None and not thaws:
        return None
    names = names_of(config.base())
    if frozen is not None:
        require_match(names, frozen, "frozen_parameters")
    for pattern in thaws:
        require_match(names, pattern, "unfreeze")
        if num_steps is not None and thaws[pattern] >= num_steps:
            raise TrainingError(
                f"unfreeze = {thaws!r}: training has {num_steps} steps, so {pattern!r} would never be trained; "
                "expected fewer updates, or frozen_parameters alone"
            )

    def trained_from(name: str) -> int:
        steps = [step for pattern, step in thaws.items() if re.search(pattern, name)]
        never = frozen is not None and re.search(frozen, name) is not None
        return min(steps) if steps else (NEVER if never else 0)

    if not any(trained_from(name) == 0 for some in names.values() for name in some):
        raise TrainingError(
            f"frozen_parameters = {frozen!r}, unfreeze = {thaws!r}: no tensor is left to train at the start; expected "
            "patterns that leave some tensors trained"
        )
    found = Freezing(names, trained_from)
    if config.reinit_tokens and set(found.frozen()) & set(MATRICES):
        raise TrainingError(
            f"reinit_tokens = {list(config.reinit_tokens)!r} initialises rows that frozen_parameters = {frozen!r} "
            "freezes; expected one of the two"
        )
    return found


def _any(trained: bool | hax.NamedArray) -> bool:
    return bool(trained.array.any()) if isinstance(trained, hax.NamedArray) else bool(trained)
