"""Runs optimizers that need whole weight matrices on each matrix separately."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import haliax as hax
import jax
import optax
from levanter.optim.util import flatten_linear_layers, unflatten_linear_layers

if TYPE_CHECKING:
    from jaxtyping import PyTree

F = TypeVar("F", bound=Callable[..., object])
LAYER_AXES = ("layer", "layers")  # Levanter's names of the axis along which it stacks the layers' weights


def for_each_matrix(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` for each tensor of the model's Hugging Face checkpoint; a linear layer is [out, in].

    Levanter stacks the tensors of all layers, and gives queries, keys and values an axis for heads.
    """

    def init(params: optax.Params) -> tuple[optax.OptState, ...]:
        arrays = _arrays(flatten_linear_layers(params))
        return tuple(_mapped(inner.init, array)(array.array) for array in arrays)

    def update(
        updates: optax.Updates, state: tuple[optax.OptState, ...], params: optax.Params | None = None
    ) -> tuple[optax.Updates, tuple[optax.OptState, ...]]:
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


def _mapped(function: F, leaf: hax.NamedArray) -> F:
    return jax.vmap(function) if leaf.axes and leaf.axes[0].name in LAYER_AXES else function


def _arrays(tree: PyTree) -> list[hax.NamedArray]:
    return jax.tree_util.tree_leaves(tree, is_leaf=_is_named)


def _is_named(node: object) -> bool:
    return isinstance(node, hax.NamedArray)
