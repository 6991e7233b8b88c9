"""A model whose layers stand one after another in the compiled program, in place of a loop over them.

On CPUs a loop costs more than the layers' own work explains: what the backward pass needs is copied into and out of
arrays of all layers. On accelerators the loop is as fast, and compiles once for all layers.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import haliax as hax
import jax
from haliax.nn.scan import Stacked

MOST_LAYERS = 16  # of more, compiling takes longer than is gained


class Unrolled(Stacked[Any]):
    """As Haliax's, but for how it is compiled."""

    def fold(self, init: Any, *args: Any, unroll: int | bool | None = None, **kwargs: Any) -> Any:
        carry = init
        for block, (some, named) in zip(self._each(self.stacked), self._each((args, kwargs)), strict=True):
            carry = block(carry, *some, **named)
        return carry

    def _each(self, tree: Any) -> list[Any]:
        """What each block gets of it: its part of named arrays that have the axis and of plain arrays, else all.

        Arrays are split, not indexed: the gradient of that is one array put together, no sum of mostly zeros.
        """
        leaves, structure = jax.tree_util.tree_flatten(tree, is_leaf=_is_named)
        parts = [self._parts(leaf) for leaf in leaves]
        return [jax.tree_util.tree_unflatten(structure, [part[i] for part in parts]) for i in range(self.Block.size)]

    def _parts(self, leaf: Any) -> list[Any]:
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


def unrolled(model: Any) -> Any:
    """The same weights, their layers unrolled if they are few and nothing is recomputed."""
    return jax.tree_util.tree_map(_unrolled, model, is_leaf=_is_stacked)


def _unrolled(layers: Any) -> Any:
    if _is_stacked(layers) and layers.gradient_checkpointing.disable and layers.Block.size <= MOST_LAYERS:
        return Unrolled(**vars(layers))
    return layers


def _is_stacked(leaf: Any) -> bool:
    return isinstance(leaf, Stacked)


def _is_named(leaf: Any) -> bool:
    return isinstance(leaf, hax.NamedArray)
