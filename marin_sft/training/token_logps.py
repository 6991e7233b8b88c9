"""Log-probabilities of the targets of packed rows, and their sums over completions."""

from __future__ import annotations

from typing import cast

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from levanter.models.lm_model import LmHeadModel

from marin_sft.training.activations import activations
from marin_sft.training.axes import BATCH, POSITION
from marin_sft.training.lm_head import logps_of_targets
from marin_sft.training.target_logps import TokenLogps


class PairRows(eqx.Module):
    """Packed completions, axes (batch, position): see `marin_sft.data.batches.pair_batches.PairBatch`.

    `branch` is None unless completions of one prompt share its tokens.
    """

    tokens: hax.NamedArray
    segment_ids: hax.NamedArray
    position_ids: hax.NamedArray
    completion: hax.NamedArray
    branch: hax.NamedArray | None = None


def token_logps(
    model: LmHeadModel,
    rows: PairRows,
    key: jax.Array | None = None,
    *,
    entropy: bool = False,
    log_sum_squares: bool = False,
) -> TokenLogps:
    """Figures [batch, position] of one forward pass. `entropy`, `log_sum_squares`: see `TokenLogps`."""
    hidden = activations(model, rows, key, rows.branch)
    is_target = rows.completion >= 0
    return logps_of_targets(model, rows.tokens, hidden, is_target, entropy=entropy, log_sum_squares=log_sum_squares)


def sums_by_completion(values: jax.Array, completion: hax.NamedArray, completions: int) -> jax.Array:
    """float32[completions]: `values` [batch, position] summed over each one's targets; see `PairBatch.completion`."""
    which = completion.rearrange((BATCH, POSITION)).array.reshape(-1)
    # Positions without a completion go into one more sum, which is dropped.
    which = jnp.where(which < 0, completions, which)
    sums = jax.ops.segment_sum(values.reshape(-1), which, num_segments=completions + 1)
    return cast(jax.Array, sums[:-1])
