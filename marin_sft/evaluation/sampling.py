"""Which token comes next, and when a sequence ends."""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from levanter.models.lm_model import LmHeadModel

from marin_sft.training.models.levanter_model import logit_soft_cap


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens.

    temperature: 0 takes the most likely token.
    top_p: draw from the fewest most likely tokens that together have at least this probability.
    seed: the same seed gives the same answers.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


class Stop(eqx.Module):
    """When a sequence ends. `room`: int32[B], how many tokens it may get. `ends`: int32[n], the ids that end it."""

    room: ArrayLike
    ends: ArrayLike
    max_new_tokens: int = eqx.field(static=True)

    def begin(self) -> tuple[jax.Array, jax.Array]:
        """No tokens yet: int32[B, max_new_tokens] of -1; and which sequences are done: bool[B]."""
        room = jnp.asarray(self.room)
        return jnp.full((room.shape[0], self.max_new_tokens), -1, jnp.int32), room <= 0

    def add(self, i: jax.Array, token: jax.Array, out: jax.Array, done: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`out` and `done` after adding token number i, int32[B], to each sequence that is not done."""
        out = out.at[:, i].set(jnp.where(done, -1, token))
        return out, done | jnp.isin(token, jnp.asarray(self.ends)) | (i + 1 >= jnp.asarray(self.room))

    def unfinished(self, i: jax.Array, done: jax.Array) -> jax.Array:
        return (i < self.max_new_tokens) & ~done.all()


def next_tokens(
    model: LmHeadModel, hidden: hax.NamedArray, i: jax.Array, sampling: Sampling, keys: jax.Array
) -> jax.Array:
    """Token number i of each answer, int32[B], from the hidden states [B, embed] of the tokens before it."""
    scores = hax.dot(hidden, model.get_lm_head(), axis=model.Embed).array.astype(jnp.float32)
    if (cap := logit_soft_cap(model)) is not None:
        scores = cap * jnp.tanh(scores / cap)
    if sampling.temperature == 0:
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)
    scores = _nucleus(scores / sampling.temperature, sampling.top_p)
    at = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
    return jax.vmap(jax.random.categorical)(at, scores).astype(jnp.int32)


def _nucleus(scores: jax.Array, top_p: float) -> jax.Array:
    """`scores` [B, vocab], -inf except for the fewest tokens whose probabilities sum to at least `top_p`."""
    if top_p >= 1:
        return scores
    order = jnp.argsort(-scores, axis=-1)
    likely = jnp.take_along_axis(jax.nn.softmax(scores, axis=-1), order, axis=-1)
    kept = jnp.cumsum(likely, axis=-1) - likely < top_p
    rows = jnp.arange(scores.shape[0])[:, None]
    return jnp.where(jnp.zeros(scores.shape, bool).at[rows, order].set(kept), scores, -jnp.inf)
