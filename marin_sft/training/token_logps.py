"""Log-probabilities of the targets of packed rows, and their sums over completions."""

from __future__ import annotations

from typing import cast

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from levanter.models.lm_model import LmHeadModel

from marin_sft.training.activations import activations, grouped, head_inputs
from marin_sft.training.axes import BATCH, POSITION
from marin_sft.training.models.levanter_model import logit_soft_cap
from marin_sft.training.target_logps import Head, TokenLogps, target_logps


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
    batch = rows.tokens.resolve_axis(BATCH)
    groups = _devices_of(batch)  # one group per device
    found = target_logps(
        *head_inputs(model, rows.tokens, hidden, groups),
        grouped(rows.completion >= 0, groups),
        Head(logit_soft_cap(model), entropy, log_sum_squares),
    )
    return TokenLogps(*(None if array is None else array.reshape(batch.size, -1) for array in found))


def _devices_of(axis: hax.Axis) -> int:
    """The number of devices over which the current axis mapping spreads the axis."""
    if hax.partitioning.physical_axis_name(axis) is None:
        return 1
    return hax.partitioning.physical_axis_size(axis) or 1


def sums_by_completion(values: jax.Array, completion: hax.NamedArray, completions: int) -> jax.Array:
    """float32[completions]: `values` [batch, position] summed over each one's targets; see `PairBatch.completion`."""
    which = completion.rearrange((BATCH, POSITION)).array.reshape(-1)
    # Positions without a completion go into one more sum, which is dropped.
    which = jnp.where(which < 0, completions, which)
    sums = jax.ops.segment_sum(values.reshape(-1), which, num_segments=completions + 1)
    return cast(jax.Array, sums[:-1])
