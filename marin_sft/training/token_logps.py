"""Log-probabilities of the tokens of packed rows, and of the completions that they make up."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp

from marin_sft.training.levanter_model import logit_soft_cap
from marin_sft.training.loss import BATCH, POSITION

KEY_POSITION = "key_position"
_LOGITS_AT_ONCE = 2**24
"""Of all rows together; more are computed block by block, and again in the backward pass, to save memory."""


class PairRows(eqx.Module):
    """Packed completions, axes (batch, position): see `marin_sft.data.pair_batches.PairBatch`.

    `branch` is None unless completions of one prompt share its tokens.
    """

    tokens: hax.NamedArray
    segment_ids: hax.NamedArray
    position_ids: hax.NamedArray
    completion: hax.NamedArray
    branch: hax.NamedArray | None = None


class TokenLogps(NamedTuple):
    """float32[batch, position], nats, of the token after each position, whether it is a target or not.

    `entropy` of the distribution it is drawn from, and `log_sum_squares`, log of the sum of its squared probabilities;
    both without gradient.
    """

    logp: jax.Array
    entropy: jax.Array
    log_sum_squares: jax.Array


def token_logps(model: Any, rows: PairRows, key: jax.Array | None = None) -> TokenLogps:
    """One forward pass. Tokens see those before them in their own segment, and of their own or the shared branch."""
    from levanter.layers.attention import AttentionMask

    mask = AttentionMask.causal().with_segment_ids(rows.segment_ids)
    if rows.branch is not None:
        keys = rows.branch.rename({POSITION: KEY_POSITION})
        mask = mask & AttentionMask.explicit((keys == 0) | (keys == rows.branch.broadcast_axis(keys.axes)))
    activations = model.activations(rows.tokens, attn_mask=mask, pos_ids=rows.position_ids, key=key)
    if isinstance(activations, tuple):
        activations = activations[0]
    targets = hax.roll(rows.tokens, -1, POSITION)
    head = model.get_lm_head()
    hidden = activations.rearrange((BATCH, POSITION, model.Embed)).array
    weights = head.rearrange((model.Embed, model.Vocab)).array
    return _blockwise(hidden, weights, targets.rearrange((BATCH, POSITION)).array, logit_soft_cap(model))


def _blockwise(hidden: jax.Array, weights: jax.Array, targets: jax.Array, soft_cap: float | None) -> TokenLogps:
    """`hidden` [batch, position, embed], `weights` [embed, vocab], `targets` int[batch, position]."""
    rows, length, embed = hidden.shape
    blocks = 1
    while rows * (length // blocks) * weights.shape[1] > _LOGITS_AT_ONCE and length % (2 * blocks) == 0:
        blocks *= 2
    if blocks == 1:
        return _from_hidden(hidden, weights, targets, soft_cap)
    in_blocks = hidden.reshape(rows, blocks, length // blocks, embed).swapaxes(0, 1)
    targets_in_blocks = targets.reshape(rows, blocks, length // blocks).swapaxes(0, 1)
    again = jax.checkpoint(lambda hidden, targets: _from_hidden(hidden, weights, targets, soft_cap))
    found = jax.lax.map(lambda block: again(*block), (in_blocks, targets_in_blocks))
    return TokenLogps(*(array.swapaxes(0, 1).reshape(rows, length) for array in found))


def _from_hidden(hidden: jax.Array, weights: jax.Array, targets: jax.Array, soft_cap: float | None) -> TokenLogps:
    logits = jnp.einsum("bpe,ev->bpv", hidden, weights, preferred_element_type=jnp.float32).astype(jnp.float32)
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    logp = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] - log_z
    fixed = jax.lax.stop_gradient(logits - log_z[..., None])
    probabilities = jnp.exp(fixed)
    return TokenLogps(logp, -jnp.sum(probabilities * fixed, axis=-1), jnp.log(jnp.sum(probabilities**2, axis=-1)))


def sums_by_completion(values: jax.Array, completion: hax.NamedArray, completions: int) -> jax.Array:
    """float32[completions]: `values` [batch, position] summed over the targets of each; see `PairBatch.completion`."""
    which = completion.rearrange((BATCH, POSITION)).array.reshape(-1)
    # What belongs to none goes into one more sum, which is left out.
    which = jnp.where(which < 0, completions, which)
    sums = jax.ops.segment_sum(values.reshape(-1), which, num_segments=completions + 1)
    return cast(jax.Array, sums[:-1])
