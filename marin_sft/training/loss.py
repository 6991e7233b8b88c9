"""The loss of supervised fine-tuning: NLL summed over trained tokens / trained tokens of the *global* batch.

The host divides before a batch is split: the weights arrive normalised, so their sums are right however the batch is
split into micro-batches and over devices.
"""

from __future__ import annotations

from typing import Protocol

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from levanter.models.lm_model import LmHeadModel

from marin_sft.errors import TrainingError
from marin_sft.training.activations import activations
from marin_sft.training.axes import BATCH, POSITION
from marin_sft.training.lm_head import logps_of_targets, nll_of_targets
from marin_sft.training.models.levanter_model import logit_soft_cap
from marin_sft.training.neftune import with_noise
from marin_sft.training.sft_config import Terms

PLAIN = Terms()


class Batch(Protocol):
    """Packed rows from `marin_sft.data.batches.packed_batches`: B rows of L tokens.

    loss_weight: [b, i] is 1.0 if token i + 1 is a trained target of the same document.
    segment_ids: the document of each token in its row; -1: padding.
    position_ids: start at 0 in each document.
    """

    @property
    def tokens(self) -> np.ndarray: ...  # int32[B, L]
    @property
    def loss_weight(self) -> np.ndarray: ...  # float32[B, L]
    @property
    def segment_ids(self) -> np.ndarray: ...  # int32[B, L]
    @property
    def position_ids(self) -> np.ndarray: ...  # int32[B, L]


class LossBatch(eqx.Module):
    """A batch on the devices; axes (batch, position). `weight` sums to 1 over the global batch."""

    tokens: hax.NamedArray
    weight: hax.NamedArray
    segment_ids: hax.NamedArray
    position_ids: hax.NamedArray


def loss_arrays(batch: Batch, trained_tokens: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of a `LossBatch` on the host. A batch without trained tokens has loss and gradient 0.

    `trained_tokens`: those of the global batch, if `batch` is a slice of it. None: `batch` is the global batch.
    """
    total = batch.loss_weight.sum(dtype=np.float64) if trained_tokens is None else trained_tokens
    return {
        "tokens": batch.tokens,
        "weight": batch.loss_weight / np.float32(max(total, 1.0)),
        "segment_ids": batch.segment_ids,
        "position_ids": batch.position_ids,
    }


def row_nll(model: LmHeadModel, batch: LossBatch) -> hax.NamedArray:
    """float32[batch]: as `nll`, for each row separately. Call it under a jit that knows the devices."""
    found = logps_of_targets(model, batch.tokens, activations(model, batch), batch.weight > 0)
    logps = hax.named(found.logp, (BATCH, POSITION))
    return -hax.sum(batch.weight * logps, POSITION)


def nll(model: LmHeadModel, batch: LossBatch, terms: Terms = PLAIN, key: jax.Array | None = None) -> jax.Array:
    """Scalar: sum over tokens of weight * -log p(next token), in float32. Attention stays within each segment.

    `key`: for noise and dropout in training. None: there is neither.

    Raises:
        TrainingError: label smoothing is asked for, but the model caps its logits.
    """
    noisy = model
    if terms.neftune_noise_alpha is not None and key is not None:
        key, noise_key = jax.random.split(key)
        noisy = with_noise(model, batch.segment_ids, terms.neftune_noise_alpha, noise_key)
    hidden = activations(noisy, batch, key)
    loss = nll_of_targets(model, batch.tokens, hidden, batch.weight, terms.z_loss_weight)
    if terms.label_smoothing:
        loss += terms.label_smoothing * _smoothing(model, hidden, batch)
    return loss


def _smoothing(model: LmHeadModel, hidden: hax.NamedArray, batch: LossBatch) -> jax.Array:
    """What a smoothing of 1 adds to the NLL: sum of weight * (z[target] - mean z).

    Logits are linear in the rows of the head, so the mean logit follows from the mean row, without all logits.
    """
    if logit_soft_cap(model) is not None:
        raise TrainingError(
            "label_smoothing: this model caps its logits (final_logit_softcapping in config.json), which smoothing "
            "cannot take into account; expected label_smoothing = 0"
        )
    head = model.get_lm_head()
    targets = hax.roll(batch.tokens, -1, POSITION)
    rows = head.take(model.Vocab, targets).astype(jnp.float32) - hax.mean(head.astype(jnp.float32), model.Vocab)
    margins = hax.sum(hidden.astype(jnp.float32) * rows, model.Embed)
    return hax.sum(batch.weight * margins).scalar()
