"""The losses of preference optimisation: pure functions of summed log-probabilities, in float32.

The formulas and their sources are at the top of `dpo_formulas`, the names and what each takes in `dpo_loss_types`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from marin_sft.training.dpo_formulas import FORMULAS, Pairs, at_least_one
from marin_sft.training.dpo_loss_types import (
    check_ld_alpha,
    check_loss_options,
    loss_type_named,
    loss_weights_of,
    smoothing_for,
)

Array: TypeAlias = "jax.Array | np.ndarray"


def implicit_rewards(policy: Array, ref: Array, beta: float) -> jax.Array:
    """float32, nats: beta * log(policy / reference), the reward that DPO implies (arXiv:2305.18290, eq. 5)."""
    return beta * (_float32(policy) - _float32(ref))


def dpo_loss(
    loss_type: str,
    *,
    policy_chosen: Array,
    policy_rejected: Array,
    ref_chosen: Array,
    ref_rejected: Array,
    chosen_lengths: Array,
    rejected_lengths: Array,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 0.5,
    discopop_tau: float = 0.05,
    simpo_gamma: float = 0.5,
    bco_delta: float = 0.0,
    valid: Array | None = None,
) -> jax.Array:
    """float32[pairs]: the loss of each pair. Traceable and differentiable in the arrays; options are Python numbers.

    Finite, and so are its gradients, for completions without tokens and for rewards up to 1e4 either way.

    `aot` and `aot_unpaired` look at all pairs of the call: over all devices if the arrays are sharded, but only over
    the micro-batch where gradients are accumulated. There the loss depends on how the batch is cut; with one pair at a
    time, it is `sigmoid`.

    Args:
        loss_type: a key of `LOSS_TYPES`.
        policy_chosen, policy_rejected, ref_chosen, ref_rejected: float[pairs], log-probability of the completion, in
            nats, summed over its tokens. `sft` and `simpo` do not look at the reference's.
        chosen_lengths, rejected_lengths: int[pairs], tokens of the completion.
        beta: how strongly the policy is kept near the reference; for `ipo` the paper's tau.
        label_smoothing: probability that a label is flipped, 0 <= e < 0.5.
        f_divergence_type: one of `F_DIVERGENCE_TYPES`.
        f_alpha_divergence_coef: alpha in f'(t) - f'(1) = (t^(alpha - 1) - 1) / (alpha - 1). 1 is reverse_kl, 0
            forward_kl.
        discopop_tau, simpo_gamma: tau and gamma of those losses. SimPO's ratio gamma / beta is `simpo_gamma / beta`.
        bco_delta: the reward that `bco_pair` subtracts from those of both completions.
        valid: bool[pairs], False for pairs that only fill the batch up: their loss is 0 whatever they hold, and they
            are left out of ranks and means. None: all are pairs.

    Raises:
        ConfigError: an unknown loss, or an option that it cannot use.
        ValueError: arrays that are not all of one shape [pairs].
    """
    loss_type = loss_type_named(loss_type)
    options: dict[str, Any] = {
        "beta": beta,
        "label_smoothing": label_smoothing,
        "f_divergence_type": f_divergence_type,
        "f_alpha_divergence_coef": f_alpha_divergence_coef,
        "discopop_tau": discopop_tau,
        "simpo_gamma": simpo_gamma,
        "bco_delta": bco_delta,
    }
    check_loss_options([loss_type], **options)
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
        **options,
    )
    return jnp.where(keep, FORMULAS[loss_type](pairs), 0.0)


def dpo_loss_parts(
    loss_types: str | Sequence[str] | Mapping[str, float],
    *,
    policy_chosen: Array,
    chosen_lengths: Array,
    label_smoothing: float = 0.0,
    valid: Array | None = None,
    pair_weights: Array | None = None,
    sft_chosen: Array | None = None,
    total_pairs: jax.typing.ArrayLike | None = None,
    total_chosen_tokens: jax.typing.ArrayLike | None = None,
    **others: Any,
) -> dict[str, jax.Array]:
    """float32 scalars: the batch's loss of each type, before it is weighted.

    It is the mean over pairs; but `sft` is the mean over the *tokens* of the batch's chosen completions, as in SFT.

    Args:
        loss_types: as for `loss_weights_of`. Losses of weight 0 are left out.
        label_smoothing: reaches those of the losses that take it.
        pair_weights: float[pairs], factors of the pairs' losses, such as `wpo_weights`; `sft` is not weighted.
        sft_chosen: float[pairs], what `sft` takes for `policy_chosen`: the plain log-probabilities, where those of the
            other losses are length-desensitised. None: the same.
        total_pairs, total_chosen_tokens: what to divide by. None: the counts of this batch. Given those of the global
            batch, the parts of its micro-batches or shards add up to its own (see `dpo_loss` for which losses).
        policy_chosen, chosen_lengths, valid, others: the arguments of `dpo_loss`.

    Raises:
        ConfigError, ValueError: as `dpo_loss`; ConfigError too if no loss can use an option, or one cannot bear it.
    """
    names = [name for name, weight in loss_weights_of(loss_types).items() if weight]
    check_loss_options(names, label_smoothing=label_smoothing, pair_weights=pair_weights is not None)
    keep = _valid(valid, policy_chosen)
    if pair_weights is not None:
        _require_one_shape(policy_chosen=policy_chosen, pair_weights=pair_weights)
    pairs = keep.sum() if total_pairs is None else total_pairs
    tokens = jnp.where(keep, chosen_lengths, 0).sum() if total_chosen_tokens is None else total_chosen_tokens

    def part(name: str) -> jax.Array:
        losses = dpo_loss(
            name,
            policy_chosen=sft_chosen if name == "sft" and sft_chosen is not None else policy_chosen,
            chosen_lengths=chosen_lengths,
            label_smoothing=smoothing_for(name, label_smoothing),
            valid=keep,
            **others,
        )
        if name == "sft":
            return (losses * at_least_one(chosen_lengths)).sum() / at_least_one(tokens)
        if pair_weights is not None:
            losses = jnp.where(keep, losses * _float32(pair_weights), 0.0)
        return losses.sum() / at_least_one(pairs)

    return {name: part(name) for name in names}


def weighted_dpo_loss(loss_types: str | Sequence[str] | Mapping[str, float], **arguments: Any) -> jax.Array:
    """float32 scalar: the sum of weight * loss over `dpo_loss_parts`, whose arguments it takes.

    RPO (arXiv:2404.19733) is `{"sigmoid": 1, "sft": alpha}`, MPO (arXiv:2411.10442) is
    `{"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1}`.
    """
    weights = loss_weights_of(loss_types)
    parts = dpo_loss_parts(loss_types, **arguments)
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
    """float32[pairs], without gradient: how likely the policy finds both completions, to weight the pair by.

    WPO (arXiv:2406.11827, eq. 2, aligned to sampling): for each completion exp of the mean over its tokens of
    log p(token) - log(sum over the vocabulary of p^2), and the product of the two.
    `*_log_sum_squares`: float[pairs], the second logarithm, in nats, summed over the tokens; others as in `dpo_loss`.
    """
    chosen = (_float32(policy_chosen) - _float32(chosen_log_sum_squares)) / at_least_one(chosen_lengths)
    rejected = (_float32(policy_rejected) - _float32(rejected_log_sum_squares)) / at_least_one(rejected_lengths)
    return jax.lax.stop_gradient(jnp.exp(chosen + rejected))


def length_desensitized_logps(
    token_logps: Array, completion_positions: Array, shared_lengths: Array, ld_alpha: float
) -> jax.Array:
    """float32, the shape of `token_logps`: those of LD-DPO (arXiv:2409.06411), to be summed instead of the plain ones.

    Of the longer completion of a pair, tokens beyond the length of the shorter one count only `ld_alpha` times.

    Args:
        token_logps: float[...], log-probability of each token, nats; any layout, padded or packed.
        completion_positions: int[...], 1 for a completion's first token, 2 for the next, 0 for all other tokens.
        shared_lengths: int, broadcast to the others: the length of the shorter completion of the token's pair.
        ld_alpha: 0 (beyond it nothing counts) to 1 (no change).

    Raises:
        ConfigError: `ld_alpha` is not from 0 to 1.
    """
    check_ld_alpha(ld_alpha)
    positions = jnp.asarray(completion_positions)
    factors = jnp.where(positions > jnp.asarray(shared_lengths), ld_alpha, 1.0)
    return jnp.where(positions > 0, factors * _float32(token_logps), 0.0)


def _float32(array: Array) -> jax.Array:
    return jnp.asarray(array, jnp.float32)


def _valid(valid: Array | None, like: Array) -> jax.Array:
    return jnp.ones(np.shape(like), bool) if valid is None else jnp.asarray(valid, bool)


def _require_one_shape(**arrays: Array) -> None:
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"arrays of shapes {shapes}; expected all to be [pairs], of one length")
