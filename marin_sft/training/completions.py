"""Log-probabilities of completions, from which the losses of preference pairs are computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from levanter.models.lm_model import LmHeadModel

from marin_sft.data.batches.pair_batches import PairBatch
from marin_sft.training.token_logps import PairRows, sums_by_completion, token_logps


class Completions(NamedTuple):
    """Figures of pairs: float32[pairs, 2] each, chosen and rejected, in nats, summed over the completion's tokens.

    tails: the part of `logps` beyond the length of the pair's shorter completion.
    lengths: int32, tokens; 0 for a pair that only pads the batch.
    entropies, log_sum_squares: as in `TokenLogps`, if asked for.
    """

    logps: jax.Array
    tails: jax.Array
    lengths: jax.Array
    entropies: jax.Array | None
    log_sum_squares: jax.Array | None

    @property
    def valid(self) -> jax.Array:
        """bool[pairs]"""
        return self.lengths.sum(axis=1) > 0


def completion_arrays(batch: PairBatch) -> dict[str, np.ndarray]:
    """The arrays of `batch` for `completions`, as from `Objective.arrays`: the first axis is micro-batches."""
    arrays = {
        "tokens": batch.tokens,
        "segment_ids": batch.segment_ids,
        "position_ids": batch.position_ids,
        "completion": batch.completion,
        "tail": _tails(batch),
        "lengths": batch.lengths,
    }
    return arrays if batch.branch is None else {**arrays, "branch": batch.branch}


def _tails(batch: PairBatch) -> np.ndarray:
    """int32, the shape of `completion`: 1 at targets beyond the length of the pair's shorter completion, else 0."""
    tails = np.zeros_like(batch.completion)
    for micro, (completion, lengths) in enumerate(zip(batch.completion, batch.lengths, strict=True)):
        shared = np.repeat(lengths.reshape(-1, 2).min(axis=1), 2)
        at = np.flatnonzero(completion >= 0)  # a completion's targets are in one row, in order
        which = completion.reshape(-1)[at]
        by_completion = np.argsort(which, kind="stable")
        counts = np.bincount(which, minlength=len(lengths))
        rank = np.empty(len(at), np.int64)
        rank[by_completion] = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
        tails[micro].reshape(-1)[at] = rank >= shared[which]
    return tails


def completions(
    model: LmHeadModel,
    batch: Mapping[str, hax.NamedArray],
    key: jax.Array | None = None,
    *,
    entropy: bool = False,
    log_sum_squares: bool = False,
) -> Completions:
    """Both completions of every pair of one micro-batch, in one forward pass."""
    names = ("tokens", "segment_ids", "position_ids", "completion")
    rows = PairRows(**{name: batch[name] for name in names}, branch=batch.get("branch"))
    lengths = batch["lengths"].array
    found = token_logps(model, rows, key, entropy=entropy, log_sum_squares=log_sum_squares)

    def sums(values: jax.Array) -> jax.Array:
        return sums_by_completion(values, rows.completion, len(lengths)).reshape(-1, 2)

    tail = batch["tail"].rearrange(rows.completion.axes).array
    return Completions(
        sums(found.logp),
        sums(jnp.where(tail > 0, found.logp, 0.0)),
        lengths.reshape(-1, 2),
        None if found.entropy is None else sums(found.entropy),
        None if found.log_sum_squares is None else sums(found.log_sum_squares),
    )
