"""Batched decoding: adds a token to each sequence until one ends it.

Models that Levanter can decode with a cache use it (see `cached_decoding`). For the others, each new token costs a
forward pass over the whole sequence: the answers are the same, but slower.
"""

from __future__ import annotations

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from levanter.models.lm_model import LmHeadModel

from marin_sft.evaluation.cached_decoding import has_cache, with_cache
from marin_sft.evaluation.sampling import GREEDY, Sampling, Stop, next_tokens


def decode(
    model: LmHeadModel,
    prompts: list[list[int]],
    ends: list[int],
    max_new_tokens: int,
    pad_to: int,
    sampling: Sampling = GREEDY,
    first: int = 0,
) -> list[list[int]]:
    """A continuation of each prompt, up to and including the first id of `ends`.

    pad_to: the longest prompt of all calls, in tokens. Calls with equal values and equal numbers of prompts share one
    compilation.
    first: the number of the first prompt. Sampling depends on a prompt's number, not on the other prompts.
    Sequences stop at the model's maximum length.
    """
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


@eqx.filter_jit
def _by_recomputing(
    model: LmHeadModel, tokens: ArrayLike, lengths: ArrayLike, stop: Stop, sampling: Sampling, keys: jax.Array
) -> jax.Array:
    """int32[B, max_new_tokens], -1 after the end of a sequence. `tokens`, int32[B, longest]: prompts, then padding,
    which causal attention never sees."""
    from levanter.layers.attention import AttentionMask

    lengths = jnp.asarray(lengths)
    rows = jnp.arange(lengths.shape[0])

    def step(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        i, tokens, out, done = carry
        hidden = model.activations(hax.named(tokens, ("batch", "position")), attn_mask=AttentionMask.causal())
        at_end = hidden.rearrange(("batch", "position", "embed")).array[rows, lengths + i - 1]
        token = next_tokens(model, hax.named(at_end, ("batch", model.Embed)), i, sampling, keys)
        out, done = stop.add(i, token, out, done)
        place = jnp.minimum(lengths + i, tokens.shape[1] - 1)
        return i + 1, tokens.at[rows, place].set(token), out, done

    start = (jnp.asarray(0, jnp.int32), jnp.asarray(tokens), *stop.begin())
    return jax.lax.while_loop(lambda carry: stop.unfinished(carry[0], carry[3]), step, start)[2]
