"""Weights that are not trained, or not from the start.

A Hugging Face tensor is trained from a certain number of updates on: 0, or what `unfreeze` says, or never. Arrays that
are never trained get no gradient and no optimizer state. Of those that hold the tensors of all layers, of which some
are trained, the gradient and the update of the others is 0: as if they had none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import haliax as hax
import jax.numpy as jnp
import optax

from marin_sft.errors import TrainingError
from marin_sft.training.models.reinit import MATRICES
from marin_sft.training.models.tensor_names import Names, map_tensors, names_of, require_match
from marin_sft.training.train_config import TrainConfig

NEVER = 2**31 - 1


@dataclass(frozen=True)
class Freezing:
    """`trained_from(name)`: how many updates there are before the tensor is trained, or NEVER."""

    names: Names
    trained_from: Callable[[str], int]

    def trainable(self, model: Any) -> Any:
        """Whether each array of `model` is ever trained: a tree like it, for Levanter's trainer."""
        starts = lambda name: self.trained_from(name) < NEVER  # noqa: E731
        return map_tensors(lambda trained, _: _any(trained), self.names, starts, model)

    def frozen(self) -> list[str]:
        """Tensors that are never trained."""
        return [name for some in self.names.values() for name in some if self.trained_from(name) == NEVER]

    def applied_to(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """`optimizer` on what is trained at the time. The first part of its state is `train_step.Recorded`."""

        def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            count = state[0].updates

            def trained_now(starts: Any, array: hax.NamedArray) -> hax.NamedArray:
                now = starts <= count
                if isinstance(now, hax.NamedArray):  # of each layer, which are the first axis
                    now = now.array.reshape(-1, *[1] * (array.ndim - 1))
                return hax.named(jnp.where(now, array.array, 0), array.axes)

            def masked(tree: Any) -> Any:
                return map_tensors(trained_now, self.names, self.trained_from, tree)

            updates, state = optimizer.update(masked(grads), state, params, **extra)
            return masked(updates), state

        return optax.GradientTransformationExtraArgs(optimizer.init, update)


def freezing(config: TrainConfig, num_steps: int | None = None) -> Freezing | None:
    """What `frozen_parameters` and `unfreeze` of the config say; None: everything is trained.

    Raises:
        TrainingError: when a pattern is found in no tensor's name, nothing is left to train at the start, or something
            is thawed after the last of `num_steps`.
    """
    frozen, thaws = config.frozen_parameters, config.unfreeze
    if frozen is None and not thaws:
        return None
    names = names_of(config.base_model)
    if frozen is not None:
        require_match(names, frozen, "frozen_parameters")
    for pattern in thaws:
        require_match(names, pattern, "unfreeze")
        if num_steps is not None and thaws[pattern] >= num_steps:
            raise TrainingError(
                f"unfreeze = {thaws!r}: training has {num_steps} steps, {pattern!r} would never be trained; expected "
                "fewer updates, or frozen_parameters alone"
            )

    def trained_from(name: str) -> int:
        steps = [step for pattern, step in thaws.items() if re.search(pattern, name)]
        never = frozen is not None and re.search(frozen, name) is not None
        return min(steps) if steps else (NEVER if never else 0)

    if not any(trained_from(name) == 0 for some in names.values() for name in some):
        raise TrainingError(
            f"frozen_parameters = {frozen!r}, unfreeze = {thaws!r}: no tensor is left to train at the start; expected "
            "patterns that leave some"
        )
    found = Freezing(names, trained_from)
    if config.reinit_tokens and set(found.frozen()) & set(MATRICES):
        raise TrainingError(
            f"reinit_tokens = {list(config.reinit_tokens)!r} initialises rows that frozen_parameters = {frozen!r} "
            "freezes; expected one of the two"
        )
    return found


def _any(trained: Any) -> bool:
    return bool(trained.array.any()) if isinstance(trained, hax.NamedArray) else bool(trained)
