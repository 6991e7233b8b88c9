"""Linear layers whose weights get their gradients faster on CPUs.

The gradient of weights [out, in] is the product of two matrices [tokens, out] and [tokens, in] over their tokens. A CPU
writes the transpose of the first one out before it multiplies, and JAX puts first what has `out` columns. Where these
are more, as in most of a feed-forward layer, it is cheaper to begin with the other, and to transpose the result.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import haliax.nn as hnn
import jax
import jax.numpy as jnp
from haliax.quantization import DefaultDotGeneralOp

Contracting = tuple[tuple[int, ...], tuple[int, ...]]


class CpuProduct(eqx.Module):
    """A `haliax.quantization.DotGeneralOp`."""

    def __call__(
        self,
        lhs: jax.Array,
        rhs: jax.Array,
        dimension_numbers: Any,
        precision: Any = None,
        preferred_element_type: Any = None,
        **options: Any,
    ) -> jax.Array:
        contracting, batch = dimension_numbers
        plain = not any(batch) and precision is None and lhs.dtype == rhs.dtype and not options
        if plain and preferred_element_type in (None, lhs.dtype):
            left, right = (tuple(map(int, axes)) for axes in contracting)
            return _product(lhs, rhs, (left, right))
        return jax.lax.dot_general(lhs, rhs, dimension_numbers, precision, preferred_element_type, **options)


def with_cpu_gradients(model: Any) -> Any:
    """The same weights, in linear layers that multiply by `CpuProduct`, but those that multiply in their own way."""

    def changed(layer: Any) -> Any:
        if _is_linear(layer) and isinstance(layer.dot_general, DefaultDotGeneralOp):
            return dataclasses.replace(layer, dot_general=CpuProduct())
        return layer

    return jax.tree_util.tree_map(changed, model, is_leaf=_is_linear)


def _is_linear(layer: Any) -> bool:
    return isinstance(layer, hnn.Linear)


def _dot(inputs: jax.Array, weights: jax.Array, contracting: Contracting) -> jax.Array:
    """Its axes: those of `inputs` that are left, in order, before those of `weights`."""
    return jax.lax.dot_general(inputs, weights, (contracting, ((), ())))


_product = jax.custom_vjp(_dot, nondiff_argnums=(2,))


def _forward(inputs: jax.Array, weights: jax.Array, contracting: Contracting) -> tuple[jax.Array, Any]:
    return _dot(inputs, weights, contracting), (inputs, weights)


def _backward(contracting: Contracting, kept: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs, weights = kept
    _, back = jax.vjp(lambda lhs, rhs: _dot(lhs, rhs, contracting), inputs, weights)
    by_inputs, by_weights = back(gradient)
    if gradient.size <= inputs.size:
        return by_inputs, by_weights
    of_inputs, of_weights = contracting
    tokens = [axis for axis in range(inputs.ndim) if axis not in of_inputs]
    found = _dot(inputs, gradient, (tuple(tokens), tuple(range(len(tokens)))))
    # Axes of `found`: those contracted, in the order that they have in `inputs`; then those of `weights` left.
    axes = [of_weights[of_inputs.index(axis)] for axis in sorted(of_inputs)]
    axes += [axis for axis in range(weights.ndim) if axis not in of_weights]
    # Without the barrier XLA turns product and transpose into the one product that JAX would have taken.
    found = jax.lax.optimization_barrier(found)
    return by_inputs, jnp.transpose(found, [axes.index(axis) for axis in range(weights.ndim)])


_product.defvjp(_forward, _backward)
