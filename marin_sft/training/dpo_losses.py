"""The losses of preference optimisation: pure functions of summed log-probabilities, in float32.

The formulas and their sources are at the top of `dpo_formulas`, the names and options in `dpo_loss_types`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from marin_sft.training.dpo_formulas import FORMULAS, Pairs, at_least_one
from marin_sft.training.dpo_loss_types import LossOptions

Array: TypeAlias = "jax.Array | np.ndarray"


def implicit_rewards(policy: Array, ref: Array, beta: float) -> jax.Array:
    """float32, nats: beta * log(policy / reference), the reward that DPO implies (arXiv:2305.18290, eq. 5)."""
    return beta * (_float32(policy) - _float32(ref))


def dpo_loss(
    options: LossOptions,
    *,
    policy_chosen: Array,
    policy_rejected: Array,
    ref_chosen: Array,
    ref_rejected: Array,
    chosen_lengths: Array,
    rejected_lengths: Array,
    valid: Array | None = None,
) -> jax.Array:
    """float32[pairs]: the loss of each pair. Traceable and differentiable in the arrays; options are Python numbers.

    Loss and gradients are finite for completions without tokens, and for rewards from -1e4 to 1e4.

    `aot` and `aot_unpaired` compare all pairs of the call: over all devices if the arrays are sharded, but only within
    the micro-batch if gradients are accumulated. Then the loss depends on how the batch is split; with one pair per
    micro-batch, it is `sigmoid`.

    Args:
        options: of one loss.
        policy_chosen, policy_rejected, ref_chosen, ref_rejected: float[pairs], log-probability of the completion, in
            nats, summed over its tokens. `sft` and `simpo` ignore the reference's.
        chosen_lengths, rejected_lengths: int[pairs], tokens of the completion.
        valid: bool[pairs], False for pairs that only pad the batch: their loss is always 0, and they do
            not count in ranks and means. None: all are valid.

    Raises:
        ConfigError: the loss is unknown, or cannot use an option.
        ValueError: the arrays are not all of one shape [pairs].
    """
    options.check_losses()
    (loss_type,) = options.weights()
    log_probs = {
        "policy_chosen": policy_chosen,
        "policy_rejected": policy_rejected,
        "ref_chosen": ref_chosen,
        "ref_rejected": ref_rejected,
    }
    lengths = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    keep = _valid(valid, policy_chosen)
    _require_one_shape(**log_probs, **lengths, valid=keep)
    pairs = Pairs(
        **{name: jnp.where(keep, _float32(array), 0.0) for name, array in log_probs.items()},
        **{name: jnp.asarray(array) for name, array in lengths.items()},
        valid=keep,
        options=options,
    )
    return jnp.where(keep, FORMULAS[loss_type](pairs), 0.0)


def dpo_loss_parts(
    options: LossOptions,
    *,
    policy_chosen: Array,
    chosen_lengths: Array,
    valid: Array | None = None,
    pair_weights: Array | None = None,
    sft_chosen: Array | None = None,
    total_pairs: jax.typing.ArrayLike | None = None,
    total_chosen_tokens: jax.typing.ArrayLike | None = None,
    **others: Array,
) -> dict[str, jax.Array]:
    """float32 scalars: the batch's loss of each type, before it is weighted.

    Each is the mean over pairs, except `sft`: the mean over the *tokens* of the chosen completions, as in SFT.

    Args:
        options: of all losses. Losses with weight 0 are left out.
        pair_weights: float[pairs], factors of the pairs' losses, e.g. `wpo_weights`. `sft` is not weighted.
        sft_chosen: float[pairs], `policy_chosen` for `sft`: the plain log-probabilities, if those of the other losses
            are length-desensitised. None: the same.
        total_pairs, total_chosen_tokens: the divisors. None: the counts of this batch. With the counts of the global
            batch, the losses of its micro-batches or shards add up to its own (see `dpo_loss` for the exceptions).
        policy_chosen, chosen_lengths, valid, others: the arguments of `dpo_loss`.

    Raises:
        ConfigError, ValueError: as `dpo_loss`; also ConfigError if no loss can use an option, or one forbids it.
    """
    options.check_losses()
    keep = _valid(valid, policy_chosen)
    if pair_weights is not None:
        _require_one_shape(policy_chosen=policy_chosen, pair_weights=pair_weights)
    pairs = keep.sum() if total_pairs is None else total_pairs
    tokens = jnp.where(keep, chosen_lengths, 0).sum() if total_chosen_tokens is None else total_chosen_tokens

    def part(name: str) -> jax.Array:
        losses = dpo_loss(
            options.alone(name),
            policy_chosen=sft_chosen if name == "sft" and sft_chosen is not None else policy_chosen,
            chosen_lengths=chosen_lengths,
            valid=keep,
            **others,
        )
        if name == "sft":
            return (losses * at_least_one(chosen_lengths)).sum() / at_least_one(tokens)
        if pair_weights is not None:
            losses = jnp.where(keep, losses * _float32(pair_weights), 0.0)
        return losses.sum() / at_least_one(pairs)

    return {name: part(name) for name in options.weights()}


def weighted_sum(options: LossOptions, parts: Mapping[str, jax.Array]) -> jax.Array:
    """float32 scalar: the loss to minimise, from its `dpo_loss_parts`.

    RPO (arXiv:2404.19733) is `{"sigmoid": 1, "sft": alpha}`, MPO (arXiv:2411.10442) is
    `{"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1}`.
    """
    weights = options.weights()
    return sum((weights[name] * part for name, part in parts.items()), start=jnp.float32(0))


def wpo_weights(
    *,
    policy_chosen: Array,
    policy_rejected: Array,
    chosen_log_sum_squares: Array,
    rejected_log_sum_squares: Array,
    chosen_lengths: Array,
    rejected_lengths: Array,
) -> jax.Array:
    """float32[pairs], without gradient: weights of the pairs by how likely the policy finds both completions.

    WPO (arXiv:2406.11827, eq. 2, aligned to sampling): the product over both completions of exp(mean over tokens of
    log p(token) - log(sum over the vocabulary of p^2)).
    `*_log_sum_squares`: float[pairs], the second logarithm, in nats, summed over the tokens. Others: as in `dpo_loss`.
    """
    chosen = (_float32(policy_chosen) - _float32(chosen_log_sum_squares)) / at_least_one(chosen_lengths)
    rejected = (_float32(policy_rejected) - _float32(rejected_log_sum_squares)) / at_least_one(rejected_lengths)
    return jax.lax.stop_gradient(jnp.exp(chosen + rejected))


def length_desensitized(logps: jax.Array, tails: jax.Array, ld_alpha: float | None) -> jax.Array:
    """Log-probabilities of completions in LD-DPO (arXiv:2409.06411): the part beyond the length of the pair's shorter
    completion, `tails`, counts `ld_alpha` times. None: once."""
    return logps if ld_alpha is None else logps - (1 - ld_alpha) * tails


def _float32(array: Array) -> jax.Array:
    return jnp.asarray(array, jnp.float32)


def _valid(valid: Array | None, like: Array) -> jax.Array:
    return jnp.ones(np.shape(like), bool) if valid is None else jnp.asarray(valid, bool)


def _require_one_shape(**arrays: Array) -> None:
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"arrays of shapes {shapes}; expected all to be [pairs], of one length")
