"""NEFTune, arXiv 2310.05914: uniform noise on the token embeddings in training."""

from __future__ import annotations

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from levanter.models.lm_model import LmHeadModel


class _NoisyEmbeddings(eqx.Module):
    embeddings: eqx.Module
    noise: hax.NamedArray

    def embed(self, tokens: hax.NamedArray, *args: object) -> hax.NamedArray:
        embedded = self.embeddings.embed(tokens, *args)
        return embedded + self.noise.astype(embedded.dtype)


def with_noise(model: LmHeadModel, segment_ids: hax.NamedArray, alpha: float, key: jax.Array) -> LmHeadModel:
    """`model` for one forward pass on tokens of these documents; axes are rows, then positions.

    Adds uniform(-1, 1) * alpha / sqrt(L d) to each of the d numbers of an embedding, where L is the number of tokens in
    its document. Padding gets no noise.
    """
    lengths = jax.vmap(_lengths)(segment_ids.array)
    scale = jnp.where(lengths > 0, alpha / jnp.sqrt(jnp.maximum(lengths, 1) * model.Embed.size), 0.0)
    axes = (*segment_ids.axes, model.Embed)
    uniform = hax.random.uniform(key, axes, minval=-1.0, maxval=1.0)
    noise = uniform * hax.named(scale, segment_ids.axes)
    return eqx.tree_at(lambda tree: tree.embeddings, model, _NoisyEmbeddings(model.embeddings, noise))


def _lengths(segments: jax.Array) -> jax.Array:
    """The length of each token's document in a row; 0 for padding, whose segment is -1."""
    counts = jnp.zeros(segments.shape[0], jnp.int32).at[segments].add(segments >= 0)
    return jnp.where(segments >= 0, counts[segments], 0)
