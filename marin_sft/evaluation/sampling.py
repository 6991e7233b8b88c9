"""Which token comes next, and when a sequence ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from levanter.models.lm_model import LmHeadModel

from marin_sft.training.models.levanter_model import logit_soft_cap


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens.

    temperature: 0 takes the most likely token.
    top_p: draw from the fewest most likely tokens that together have at least this probability.
    seed: the same seed gives the same answers.
    top_k: draw from so many most likely tokens. None: from all.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_k: int | None = None


GREEDY = Sampling()


class Choice(eqx.Module):
    """A `Sampling` for a batch, as arrays: other values need no other program. None: the most likely token, or from all
    tokens. keys: one per sequence, None as temperature."""

    temperature: ArrayLike | None
    top_p: ArrayLike | None
    top_k: ArrayLike | None
    keys: jax.Array | None

    @staticmethod
    def of(sampling: Sampling, numbers: Sequence[int]) -> Choice:
        """`numbers`: of the sequences."""
        if sampling.temperature == 0:
            return Choice(None, None, None, None)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.PRNGKey(sampling.seed), jnp.asarray(numbers))
        top_p = np.float32(sampling.top_p) if sampling.top_p < 1 else None
        top_k = None if sampling.top_k is None else np.int32(sampling.top_k)
        return Choice(np.float32(sampling.temperature), top_p, top_k, keys)


class Stop(eqx.Module):
    """When a sequence ends. `room`: int32[B], how many tokens it may get. `ends`: int32[n], the ids that end it."""

    room: ArrayLike
    ends: ArrayLike

    def begin(self, columns: int) -> tuple[jax.Array, jax.Array]:
        """No tokens yet: int32[B, columns] of -1; and which sequences are done: bool[B]."""
        room = jnp.asarray(self.room)
        return jnp.full((room.shape[0], columns), -1, jnp.int32), room <= 0

    def add(self, i: jax.Array, token: jax.Array, out: jax.Array, done: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`out` and `done` after adding token number i, int32[B], to each sequence that is not done."""
        out = jax.lax.dynamic_update_slice_in_dim(out, jnp.where(done, -1, token)[:, None], i, axis=1)
        return out, done | jnp.isin(token, jnp.asarray(self.ends)) | (i + 1 >= jnp.asarray(self.room))


def next_tokens(model: LmHeadModel, hidden: hax.NamedArray, i: jax.Array, choice: Choice) -> jax.Array:
    """Token number i of each answer, int32[B], from the hidden states [B, embed] of the tokens before it."""
    scores = hax.dot(hidden, model.get_lm_head(), axis=model.Embed).array.astype(jnp.float32)
    if (cap := logit_soft_cap(model)) is not None:
        scores = cap * jnp.tanh(scores / cap)
    if choice.temperature is None:
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)
    scores = _most_likely(scores / choice.temperature, choice)
    at = jax.vmap(jax.random.fold_in, (0, None))(choice.keys, i)
    return jax.vmap(jax.random.categorical)(at, scores).astype(jnp.int32)


def _most_likely(scores: jax.Array, choice: Choice) -> jax.Array:
    """`scores` [B, vocab], -inf except for the `top_k` most likely tokens; of these, except for the fewest whose
    probabilities sum to at least `top_p`."""
    if choice.top_p is None and choice.top_k is None:
        return scores
    order = jnp.argsort(-scores, axis=-1)
    ordered = jnp.take_along_axis(scores, order, axis=-1)
    if choice.top_k is not None:
        ordered = jnp.where(jnp.arange(scores.shape[-1]) < choice.top_k, ordered, -jnp.inf)
    if choice.top_p is not None:
        likely = jax.nn.softmax(ordered, axis=-1)
        ordered = jnp.where(jnp.cumsum(likely, axis=-1) - likely < choice.top_p, ordered, -jnp.inf)
    return jnp.full_like(scores, -jnp.inf).at[jnp.arange(scores.shape[0])[:, None], order].set(ordered)
