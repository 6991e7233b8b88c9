"""A reference model kept in the train state, which follows the policy from time to time."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from levanter.optim.model_averaging import ModelAveraging


class SyncedReference(ModelAveraging[Any]):
    """After every `steps` updates: reference = alpha * policy + (1 - alpha) * reference. None: it stays as it is.

    TR-DPO (arXiv:2404.09656), soft update.
    """

    model: Any
    steps: int | None = eqx.field(static=True)
    alpha: float = eqx.field(static=True)

    def update(self, model: Any, step: Any) -> SyncedReference:
        """`step`: updates before this one."""
        if self.steps is None:
            return self
        share = jnp.where((step + 1) % self.steps == 0, self.alpha, 0.0)

        def towards(policy: Any, reference: Any) -> Any:
            return reference if policy is None else share * policy + (1 - share) * reference

        moved = jax.tree_util.tree_map(towards, model, self.model, is_leaf=lambda x: x is None or _is_array(x))
        return dataclasses.replace(self, model=moved)

    @property
    def model_params(self) -> Any:
        return self.model


def _is_array(x: Any) -> bool:
    return isinstance(x, hax.NamedArray)
