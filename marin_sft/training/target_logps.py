"""Log-probabilities of target tokens from hidden states, computed for the targets only.

If only completions are trained, many positions have no target, and the product with the language model's head is a
large part of the work. So the hidden states of targets are gathered, and go through the head block by block. The number
of blocks is known at run time only. No logits are kept for the backward pass.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from marin_sft.training.target import target

_CPU_LOGITS = 2**21  # few, so that they fit into the caches
_SHARE_OF_MEMORY = 1 / 128  # of a device's: so much that reading and writing the weights' gradients takes little time
_USUAL_MEMORY = 16 * 2**30  # bytes, of a device that does not tell


def _places_at_once(vocab: int) -> int:
    """Positions whose logits are computed together."""
    here = target()
    if here.platform == "cpu":
        return max(256, _CPU_LOGITS // vocab)
    places = int((here.memory or _USUAL_MEMORY) * _SHARE_OF_MEMORY) // (vocab * jnp.dtype(jnp.float32).itemsize)
    return max(256, places // 128 * 128)


class TokenLogps(NamedTuple):
    """float32 figures of each position, in nats; 0 where there is no target.

    logp: log-probability of the token after the position.
    entropy: entropy of its distribution, without gradient. None: not asked for.
    log_sum_squares: log of the sum of the squared probabilities, without gradient. None: not asked for.
    """

    logp: jax.Array
    entropy: jax.Array | None
    log_sum_squares: jax.Array | None


class Head(NamedTuple):
    """What to compute from a hidden state in addition to the product with the head's weights.

    soft_cap: c, if logits x become c * tanh(x / c).
    entropy, log_sum_squares: whether to compute them.
    """

    soft_cap: float | None = None
    entropy: bool = False
    log_sum_squares: bool = False


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def target_logps(
    hidden: jax.Array, weights: jax.Array, tokens: jax.Array, is_target: jax.Array, head: Head
) -> TokenLogps:
    """Figures [positions] for `hidden` [positions, embed] and `weights` [embed, vocab].

    tokens: int[positions], the token after each position.
    is_target: bool[positions], whether that token is a target.
    """
    return _forward(hidden, weights, tokens, is_target, head)[0]


def _forward(
    hidden: jax.Array, weights: jax.Array, tokens: jax.Array, is_target: jax.Array, head: Head
) -> tuple[TokenLogps, tuple[jax.Array, ...]]:
    blocks = _Blocks(is_target, weights.shape[1])
    figures = 2 + head.entropy + head.log_sum_squares

    def add(i: jax.Array, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        logits = _logits(blocks.gathered(hidden, i), weights, head.soft_cap)
        values = _figures(logits, blocks.gathered(tokens, i), head)
        return tuple(jax.lax.dynamic_update_index_in_dim(*some, i, 0) for some in zip(found, values, strict=True))

    zeros = (jnp.zeros(blocks.order.shape, jnp.float32),) * figures
    log_z, logp, *others = jax.lax.fori_loop(0, blocks.used, add, zeros)
    placed = iter([jnp.where(is_target, blocks.placed(values), 0.0) for values in (logp, *others)])
    found = TokenLogps(
        next(placed), next(placed) if head.entropy else None, next(placed) if head.log_sum_squares else None
    )
    return found, (hidden, weights, tokens, is_target, log_z)


def _backward(head: Head, kept: tuple[jax.Array, ...], gradient: TokenLogps) -> tuple[jax.Array | None, ...]:
    """The gradient of `logp`; the other figures have none."""
    hidden, weights, tokens, is_target, log_z = kept
    blocks = _Blocks(is_target, weights.shape[1])
    of_logp = jnp.where(is_target, gradient.logp, 0.0)

    def add(i: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        by_hidden, by_weights = sums
        states = blocks.gathered(hidden, i)
        logits = _logits(states, weights, head.soft_cap)
        is_token = blocks.gathered(tokens, i)[..., None] == jnp.arange(weights.shape[1])
        by_logits = blocks.gathered(of_logp, i)[..., None] * (is_token - jnp.exp(logits - log_z[i][..., None]))
        if head.soft_cap is not None:
            by_logits *= 1 - jnp.square(logits / head.soft_cap)
        by_logits = by_logits.astype(hidden.dtype)
        here = jnp.einsum("pv,ev->pe", by_logits, weights)
        there = jnp.einsum("pe,pv->ev", states, by_logits, preferred_element_type=jnp.float32)
        return jax.lax.dynamic_update_index_in_dim(by_hidden, here, i, 0), by_weights + there

    zeros = (
        jnp.zeros((*blocks.order.shape, hidden.shape[-1]), hidden.dtype),
        jnp.zeros(weights.shape, jnp.float32),
    )
    by_hidden, by_weights = jax.lax.fori_loop(0, blocks.used, add, zeros)
    return blocks.placed(by_hidden), by_weights.astype(weights.dtype), None, None


target_logps.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def weighted_nll(
    hidden: jax.Array,
    weights: jax.Array,
    tokens: jax.Array,
    weight: jax.Array,
    soft_cap: float | None,
    z_loss_weight: float,
) -> jax.Array:
    """Scalar: sum of weight * (-logp + z_loss_weight * log(Z)^2). Other arguments: as in `target_logps`.

    weight: float32[positions], above 0 at targets, else 0.
    The gradient by the logits is known with the logits. So if it is needed, the forward pass computes each block's part
    of the gradients: no logits are kept, and none are computed twice.
    """
    blocks, loss = _Blocks(weight > 0, weights.shape[1]), jnp.zeros((), jnp.float32)

    def add(i: jax.Array, loss: jax.Array) -> jax.Array:
        logits = _logits(blocks.gathered(hidden, i), weights, soft_cap)
        log_z, logp = _figures(logits, blocks.gathered(tokens, i), Head())
        of_tokens = z_loss_weight * jnp.square(log_z) - logp
        return loss + (blocks.gathered(weight, i) * of_tokens).sum()

    return jax.lax.fori_loop(0, blocks.used, add, loss)


def _nll_forward(
    hidden: jax.Array,
    weights: jax.Array,
    tokens: jax.Array,
    weight: jax.Array,
    soft_cap: float | None,
    z_loss_weight: float,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    blocks = _Blocks(weight > 0, weights.shape[1])

    def add(i: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        loss, by_hidden, by_weights = sums
        states, targets, of_block = (blocks.gathered(array, i) for array in (hidden, tokens, weight))
        logits = _logits(states, weights, soft_cap)
        log_z, logp = _figures(logits, targets, Head())
        scale = of_block * (1 + 2 * z_loss_weight * log_z)
        is_token = targets[..., None] == jnp.arange(weights.shape[1])
        by_logits = scale[..., None] * jnp.exp(logits - log_z[..., None]) - of_block[..., None] * is_token
        if soft_cap is not None:
            by_logits *= 1 - jnp.square(logits / soft_cap)
        by_logits = by_logits.astype(hidden.dtype)
        here = jnp.einsum("pv,ev->pe", by_logits, weights)
        there = jnp.einsum("pe,pv->ev", states, by_logits, preferred_element_type=jnp.float32)
        loss += (of_block * (z_loss_weight * jnp.square(log_z) - logp)).sum()
        return loss, jax.lax.dynamic_update_index_in_dim(by_hidden, here, i, 0), by_weights + there

    zeros = (
        jnp.zeros((), jnp.float32),
        jnp.zeros((*blocks.order.shape, hidden.shape[-1]), hidden.dtype),
        jnp.zeros(weights.shape, jnp.float32),
    )
    loss, by_hidden, by_weights = jax.lax.fori_loop(0, blocks.used, add, zeros)
    return loss, (blocks.placed(by_hidden), by_weights.astype(weights.dtype))


def _nll_backward(
    soft_cap: float | None, z_loss_weight: float, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    by_hidden, by_weights = ((gradient * by).astype(by.dtype) for by in kept)
    return by_hidden, by_weights, None, None


weighted_nll.defvjp(_nll_forward, _nll_backward)


class _Blocks:
    """Positions in blocks of equal size, those with targets first.

    order: int[blocks, places], the position; 0 in places that only pad the last block.
    used: the number of blocks with a target.
    """

    def __init__(self, is_target: jax.Array, vocab: int) -> None:
        positions = len(is_target)
        places = min(positions, _places_at_once(vocab))
        order = jnp.argsort(~is_target, stable=True)
        self._place = jnp.argsort(order)
        self._real = jnp.arange(positions + -positions % places).reshape(-1, places) < positions
        self.order = jnp.pad(order, (0, -positions % places)).reshape(-1, places)
        self.used = -(-is_target.sum() // places)

    def gathered(self, values: jax.Array, i: jax.Array) -> jax.Array:
        """[places, ...], block `i` of `values` [positions, ...]; 0 in padding."""
        found = values[self.order[i]]
        return jnp.where(self._real[i].reshape(-1, *(1,) * (found.ndim - 1)), found, 0)

    def placed(self, values: jax.Array) -> jax.Array:
        """[positions, ...] from `values` [blocks, places, ...]: the inverse of `gathered`."""
        return values.reshape(-1, *values.shape[2:])[self._place]


def _logits(hidden: jax.Array, weights: jax.Array, soft_cap: float | None) -> jax.Array:
    logits = jnp.einsum("pe,ev->pv", hidden, weights, preferred_element_type=jnp.float32)
    return logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)


def _figures(logits: jax.Array, tokens: jax.Array, head: Head) -> tuple[jax.Array, ...]:
    """log Z, log p(token), and the figures that `head` asks for, from `logits` [..., vocab]."""
    highest = logits.max(axis=-1, keepdims=True)
    below = logits - highest
    powers = jnp.exp(below)
    total = powers.sum(axis=-1)
    log_total = jnp.log(total)
    logp = jnp.take_along_axis(below, tokens[..., None], axis=-1)[..., 0] - log_total
    found = [highest[..., 0] + log_total, logp]
    if head.entropy:
        found.append(log_total - _dot(powers, below) / total)
    if head.log_sum_squares:
        found.append(jnp.log(_dot(powers, powers)) - 2 * log_total)
    return tuple(found)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Along the last axis. On CPUs, XLA needs several times as long for a sum of products."""
    return jnp.einsum("...v,...v->...", a, b, precision=jax.lax.Precision.HIGHEST)
