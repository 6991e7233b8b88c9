"""A model whose layers are unrolled in the compiled program instead of a loop over them.

On CPUs the loop is slow: what the backward pass needs is copied into and out of arrays over all layers. On accelerators
the loop is as fast, and the layer is compiled only once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import equinox as eqx
import haliax as hax
import jax
from haliax.nn.scan import Stacked

if TYPE_CHECKING:
    from jaxtyping import PyTree
    from levanter.models.lm_model import LmHeadModel

MOST_LAYERS = 16  # with more, compiling takes longer than it saves


class Unrolled(Stacked[eqx.Module]):
    """Haliax's Stacked, compiled differently."""

    def fold(self, init: PyTree, *args: PyTree, unroll: int | bool | None = None, **kwargs: PyTree) -> PyTree:
        carry = init
        for block, (some, named) in zip(self._each(self.stacked), self._each((args, kwargs)), strict=True):
            carry = block(carry, *some, **named)
        return carry

    def _each(self, tree: PyTree) -> list[PyTree]:
        """The tree for each block: its part of plain arrays and of named arrays with the block axis, all of the rest.

        Arrays are split, not indexed: the gradient of a split is a concatenation, not a sum of mostly zeros.
        """
        leaves, structure = jax.tree_util.tree_flatten(tree, is_leaf=_is_named)
        parts = [self._parts(leaf) for leaf in leaves]
        return [jax.tree_util.tree_unflatten(structure, [part[i] for part in parts]) for i in range(self.Block.size)]

    def _parts(self, leaf: PyTree) -> list[PyTree]:
        count = self.Block.size
        if _is_named(leaf):
            index = leaf.axis_indices(self.Block.name)
            if index is None:
                return [leaf] * count
            axes = leaf.axes[:index] + leaf.axes[index + 1 :]
            return [hax.NamedArray(part.squeeze(index), axes) for part in jax.lax.split(leaf.array, [1] * count, index)]
        if eqx.is_array(leaf) and leaf.ndim > 0:
            return [part.squeeze(0) for part in jax.lax.split(leaf, [1] * count)]
        return [leaf] * count


def unrolled(model: LmHeadModel) -> LmHeadModel:
    """The same weights, with the layers unrolled if they are few and nothing is recomputed."""
    return jax.tree_util.tree_map(_unrolled, model, is_leaf=_is_stacked)


def _unrolled(layers: object) -> object:
    if _is_stacked(layers) and layers.gradient_checkpointing.disable and layers.Block.size <= MOST_LAYERS:
        return Unrolled(**vars(layers))
    return layers


def _is_stacked(leaf: object) -> TypeGuard[Stacked]:
    return isinstance(leaf, Stacked)


def _is_named(leaf: object) -> bool:
    return isinstance(leaf, hax.NamedArray)
