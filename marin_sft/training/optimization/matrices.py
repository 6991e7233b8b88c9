"""Optimizers that look at a weight matrix as a whole, run on each matrix by itself."""

from __future__ import annotations

from typing import Any

import haliax as hax
import jax
import optax
from levanter.optim.util import flatten_linear_layers, unflatten_linear_layers

LAYER_AXES = ("layer", "layers")  # Levanter's names of the axis along which it stacks the layers' weights


def for_each_matrix(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` on each tensor that a model's Hugging Face checkpoint has: for a linear layer [out, in].

    Levanter stacks those of all layers, and gives queries, keys and values an axis for heads.
    """

    def init(params: Any) -> tuple[Any, ...]:
        arrays = _arrays(flatten_linear_layers(params))
        return tuple(_mapped(inner.init, array)(array.array) for array in arrays)

    def update(updates: Any, state: tuple[Any, ...], params: Any = None) -> tuple[Any, tuple[Any, ...]]:
        flat = flatten_linear_layers(updates)
        leaves, structure = jax.tree_util.tree_flatten(flat, is_leaf=_is_named)
        weights = _arrays(flatten_linear_layers(params))
        results = [
            _mapped(inner.update, leaf)(leaf.array, here, weight.array)
            for leaf, here, weight in zip(leaves, state, weights, strict=True)
        ]
        named = [hax.named(new, leaf.axes) for (new, _), leaf in zip(results, leaves, strict=True)]
        tree = unflatten_linear_layers(updates, jax.tree_util.tree_unflatten(structure, named))
        return tree, tuple(here for _, here in results)

    return optax.GradientTransformation(init, update)


def _mapped(function: Any, leaf: hax.NamedArray) -> Any:
    return jax.vmap(function) if leaf.axes and leaf.axes[0].name in LAYER_AXES else function


def _arrays(tree: Any) -> list[hax.NamedArray]:
    return jax.tree_util.tree_leaves(tree, is_leaf=_is_named)


def _is_named(node: Any) -> bool:
    return isinstance(node, hax.NamedArray)
