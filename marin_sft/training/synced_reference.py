"""A reference model in the train state, which is moved towards the policy at intervals."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from levanter.models.lm_model import LmHeadModel
from levanter.optim.model_averaging import ModelAveraging


class SyncedReference(ModelAveraging[LmHeadModel]):
    """After every `steps` updates: reference = alpha * policy + (1 - alpha) * reference. None: it does not change.

    TR-DPO (arXiv:2404.09656), soft update.
    """

    model: LmHeadModel
    steps: int | None = eqx.field(static=True)
    alpha: float = eqx.field(static=True)

    def update(self, model: LmHeadModel, step: jax.Array) -> SyncedReference:
        """`step`: the number of updates before this one."""
        if self.steps is None:
            return self
        share = jnp.where((step + 1) % self.steps == 0, self.alpha, 0.0)

        def towards(policy: hax.NamedArray | None, reference: hax.NamedArray) -> hax.NamedArray:
            return reference if policy is None else share * policy + (1 - share) * reference

        moved = jax.tree_util.tree_map(towards, model, self.model, is_leaf=lambda x: x is None or _is_array(x))
        return dataclasses.replace(self, model=moved)

    @property
    def model_params(self) -> LmHeadModel:
        return self.model


def _is_array(x: object) -> bool:
    return isinstance(x, hax.NamedArray)
