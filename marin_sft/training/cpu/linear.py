"""Linear layers whose weight gradients are faster on CPUs.

The gradient of weights [out, in] is the product of [tokens, out] and [tokens, in] over the tokens. A CPU transposes the
first matrix before it multiplies, and JAX puts [tokens, out] first. If out > in, as in most feed-forward layers, it is
cheaper to put [tokens, in] first and to transpose the result.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeGuard

import equinox as eqx
import haliax.nn as hnn
import jax
import jax.numpy as jnp
from haliax.quantization import DefaultDotGeneralOp

if TYPE_CHECKING:
    from levanter.models.lm_model import LmHeadModel

Contracting = tuple[tuple[int, ...], tuple[int, ...]]
Kept = tuple[jax.Array, jax.Array]


class CpuProduct(eqx.Module):
    """A `haliax.quantization.DotGeneralOp`."""

    def __call__(
        self,
        lhs: jax.Array,
        rhs: jax.Array,
        dimension_numbers: jax.lax.DotDimensionNumbers,
        precision: jax.lax.PrecisionLike = None,
        preferred_element_type: jax.typing.DTypeLike | None = None,
        **options: object,
    ) -> jax.Array:
        contracting, batch = dimension_numbers
        plain = not any(batch) and precision is None and lhs.dtype == rhs.dtype and not options
        if plain and preferred_element_type in (None, lhs.dtype):
            left, right = (tuple(map(int, axes)) for axes in contracting)
            return _product(lhs, rhs, (left, right))
        return jax.lax.dot_general(lhs, rhs, dimension_numbers, precision, preferred_element_type, **options)


def with_cpu_gradients(model: LmHeadModel) -> LmHeadModel:
    """The same weights, in linear layers that use `CpuProduct`. Layers with a product of their own keep it."""

    def changed(layer: object) -> object:
        if _is_linear(layer) and isinstance(layer.dot_general, DefaultDotGeneralOp):
            return dataclasses.replace(layer, dot_general=CpuProduct())
        return layer

    return jax.tree_util.tree_map(changed, model, is_leaf=_is_linear)


def _is_linear(layer: object) -> TypeGuard[hnn.Linear]:
    return isinstance(layer, hnn.Linear)


def _dot(inputs: jax.Array, weights: jax.Array, contracting: Contracting) -> jax.Array:
    """Axes of the result: those of `inputs` that are not contracted, then those of `weights`."""
    return jax.lax.dot_general(inputs, weights, (contracting, ((), ())))


_product = jax.custom_vjp(_dot, nondiff_argnums=(2,))


def _forward(inputs: jax.Array, weights: jax.Array, contracting: Contracting) -> tuple[jax.Array, Kept]:
    return _dot(inputs, weights, contracting), (inputs, weights)


def _backward(contracting: Contracting, kept: Kept, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs, weights = kept
    _, back = jax.vjp(lambda lhs, rhs: _dot(lhs, rhs, contracting), inputs, weights)
    by_inputs, by_weights = back(gradient)
    if gradient.size <= inputs.size:
        return by_inputs, by_weights
    of_inputs, of_weights = contracting
    tokens = [axis for axis in range(inputs.ndim) if axis not in of_inputs]
    found = _dot(inputs, gradient, (tuple(tokens), tuple(range(len(tokens)))))
    # Axes of `found`: the contracted ones in the order of `inputs`, then the remaining ones of `weights`.
    axes = [of_weights[of_inputs.index(axis)] for axis in sorted(of_inputs)]
    axes += [axis for axis in range(weights.ndim) if axis not in of_weights]
    # Without the barrier, XLA merges product and transpose into the product that JAX would have used.
    found = jax.lax.optimization_barrier(found)
    return by_inputs, jnp.transpose(found, [axes.index(axis) for axis in range(weights.ndim)])


_product.defvjp(_forward, _backward)
