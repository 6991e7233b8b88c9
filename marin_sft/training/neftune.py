"""NEFTune, arXiv 2310.05914: uniform noise on the embeddings of the tokens while training."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp


class _NoisyEmbeddings(eqx.Module):
    embeddings: Any
    noise: hax.NamedArray

    def embed(self, tokens: hax.NamedArray, *args: Any) -> hax.NamedArray:
        embedded = self.embeddings.embed(tokens, *args)
        return embedded + self.noise.astype(embedded.dtype)


def with_noise(model: Any, segment_ids: hax.NamedArray, alpha: float, key: jax.Array) -> Any:
    """`model` for one forward pass on tokens of these documents, the first axis rows, the second positions.

    Adds uniform(-1, 1) * alpha / sqrt(L d) to each of the d numbers of an embedding, L the tokens of its document; 0
    to padding.
    """
    lengths = jax.vmap(_lengths)(segment_ids.array)
    scale = jnp.where(lengths > 0, alpha / jnp.sqrt(jnp.maximum(lengths, 1) * model.Embed.size), 0.0)
    axes = (*segment_ids.axes, model.Embed)
    uniform = hax.random.uniform(key, axes, minval=-1.0, maxval=1.0)
    noise = uniform * hax.named(scale, segment_ids.axes)
    return eqx.tree_at(lambda tree: tree.embeddings, model, _NoisyEmbeddings(model.embeddings, noise))


def _lengths(segments: jax.Array) -> jax.Array:
    """Of the document of each token of a row; 0 for padding, whose segment is -1."""
    counts = jnp.zeros(segments.shape[0], jnp.int32).at[segments].add(segments >= 0)
    return jnp.where(segments >= 0, counts[segments], 0)
