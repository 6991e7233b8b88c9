"""Batched decoding: the next token of each sequence, until one that ends it.

Models that Levanter can decode with a cache go that way (see `cached_decoding`); for all others, each new token costs a
forward pass over the whole sequence: the same answers, slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from marin_sft.training.models.levanter_model import logit_soft_cap


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0: the most likely token. `top_p`: draw from the fewest most likely tokens that together have at
    least this probability. `seed`: equal ones give equal answers."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def decode(
    model: Any,
    prompts: list[list[int]],
    ends: list[int],
    max_new_tokens: int,
    pad_to: int,
    sampling: Sampling = Sampling(),
    first: int = 0,
) -> list[list[int]]:
    """A continuation of each prompt, up to and including the first id of `ends`.

    pad_to: the longest prompt that any call will bring, in tokens; equal values share one compilation, as do equal
    numbers of prompts. first: the number of the first prompt; what is drawn for a prompt depends on its number, not on
    the prompts beside it. Sequences stop at the model's longest length.
    """
    from marin_sft.evaluation.cached_decoding import has_cache, with_cache

    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    room = np.minimum(model.max_length - lengths, max_new_tokens).astype(np.int32)
    numbers = jnp.arange(first, first + len(prompts))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.PRNGKey(sampling.seed), numbers)
    stop = Stop(room, np.array(ends, np.int32), max_new_tokens)
    if has_cache(model):
        out = with_cache(model, prompts, lengths, pad_to, stop, sampling, keys)
    else:
        tokens = np.zeros((len(prompts), min(pad_to + max_new_tokens, model.max_length)), np.int32)
        for i, prompt in enumerate(prompts):
            tokens[i, : len(prompt)] = prompt
        out = _by_recomputing(model, tokens, lengths, stop, sampling, keys)
    return [[int(token) for token in row if token >= 0] for row in np.asarray(out)]


class Stop(eqx.Module):
    """When a sequence ends: `room`, int32[B], is how many tokens it may get; `ends`, int32[n], end it."""

    room: ArrayLike
    ends: ArrayLike
    max_new_tokens: int = eqx.field(static=True)

    def begin(self) -> tuple[jax.Array, jax.Array]:
        """No tokens yet, int32[B, max_new_tokens] of -1, and which sequences are done, bool[B]."""
        room = jnp.asarray(self.room)
        return jnp.full((room.shape[0], self.max_new_tokens), -1, jnp.int32), room <= 0

    def add(self, i: jax.Array, token: jax.Array, out: jax.Array, done: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`out` and `done` with token number i, int32[B], of each sequence that is not done."""
        out = out.at[:, i].set(jnp.where(done, -1, token))
        return out, done | jnp.isin(token, jnp.asarray(self.ends)) | (i + 1 >= jnp.asarray(self.room))

    def unfinished(self, i: jax.Array, done: jax.Array) -> jax.Array:
        return (i < self.max_new_tokens) & ~done.all()


def next_tokens(model: Any, hidden: hax.NamedArray, i: jax.Array, sampling: Sampling, keys: jax.Array) -> jax.Array:
    """Token number i of each answer, int32[B], from the hidden states [B, embed] of the tokens before."""
    scores = hax.dot(hidden, model.get_lm_head(), axis=model.Embed).array.astype(jnp.float32)
    if (cap := logit_soft_cap(model)) is not None:
        scores = cap * jnp.tanh(scores / cap)
    if sampling.temperature == 0:
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)
    scores = _nucleus(scores / sampling.temperature, sampling.top_p)
    at = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
    return jax.vmap(jax.random.categorical)(at, scores).astype(jnp.int32)


def _nucleus(scores: jax.Array, top_p: float) -> jax.Array:
    """`scores` [B, vocab], -inf for all but the fewest tokens with a probability of at least `top_p` in sum."""
    if top_p >= 1:
        return scores
    order = jnp.argsort(-scores, axis=-1)
    likely = jnp.take_along_axis(jax.nn.softmax(scores, axis=-1), order, axis=-1)
    kept = jnp.cumsum(likely, axis=-1) - likely < top_p
    rows = jnp.arange(scores.shape[0])[:, None]
    return jnp.where(jnp.zeros(scores.shape, bool).at[rows, order].set(kept), scores, -jnp.inf)


@eqx.filter_jit
def _by_recomputing(
    model: Any, tokens: ArrayLike, lengths: ArrayLike, stop: Stop, sampling: Sampling, keys: jax.Array
) -> jax.Array:
    """int32[B, max_new_tokens], -1 after the end of a sequence. `tokens`, int32[B, longest]: prompts, then padding,
    which causal attention never sees."""
    from levanter.layers.attention import AttentionMask

    lengths = jnp.asarray(lengths)
    rows = jnp.arange(lengths.shape[0])

    def step(carry: Any) -> Any:
        i, tokens, out, done = carry
        hidden = model.activations(hax.named(tokens, ("batch", "position")), attn_mask=AttentionMask.causal())
        at_end = hidden.rearrange(("batch", "position", "embed")).array[rows, lengths + i - 1]
        token = next_tokens(model, hax.named(at_end, ("batch", model.Embed)), i, sampling, keys)
        out, done = stop.add(i, token, out, done)
        place = jnp.minimum(lengths + i, tokens.shape[1] - 1)
        return i + 1, tokens.at[rows, place].set(token), out, done

    start = (jnp.asarray(0, jnp.int32), jnp.asarray(tokens), *stop.begin())
    return jax.lax.while_loop(lambda carry: stop.unfinished(carry[0], carry[3]), step, start)[2]
