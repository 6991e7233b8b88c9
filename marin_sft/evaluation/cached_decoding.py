"""Decoding with Levanter's paged key/value cache.

Each sequence owns a fixed run of pages, so no scheduler is needed: one call fills the cache with all prompts, then a
loop in the same compiled function adds one token per sequence and step until all have ended. On a CPU or GPU,
Levanter's reference attention processes prompt tokens one by one: fine for small models, slow for long prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from levanter.inference.page_table import PageBatchInfo, PageTableSpec
from levanter.inference.utils import INVALID
from levanter.models.lm_model import LmHeadModel

from marin_sft.evaluation.sampling import Sampling, Stop, next_tokens

if TYPE_CHECKING:
    from jaxtyping import PyTree

PAGE_SIZE = 32  # tokens


@dataclass(frozen=True)
class Layout:
    """The cache for B sequences of at most `pages * PAGE_SIZE` tokens. Sequence b owns `pages` pages in a row: its
    token t is in slot `b * pages * PAGE_SIZE + t`."""

    sequences: int
    pages: int

    @property
    def capacity(self) -> int:
        return self.pages * PAGE_SIZE

    def spec(self) -> PageTableSpec:
        return PageTableSpec(num_pages=self.sequences * self.pages, page_size=PAGE_SIZE)

    def step(self, new: jax.Array, lengths: jax.Array, slots: jax.Array) -> PageBatchInfo:
        """A call that adds `new[b]` tokens to sequence b, which is then `lengths[b]` long; both are int32[B].

        `slots`: int32[tokens], where each token goes. Tokens beyond sum(new) are not written.
        """
        table = jnp.arange(self.sequences * self.pages, dtype=jnp.int32).reshape(self.sequences, self.pages)
        offsets = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(new, dtype=jnp.int32)])
        return PageBatchInfo(
            slot_ids=hax.named(jnp.arange(self.sequences, dtype=jnp.int32), "seq"),
            page_indices=hax.named(table, ("seq", "page")),
            seq_lens=hax.named(lengths, "seq"),
            cu_q_lens=hax.named(offsets, "seq"),
            num_seqs=jnp.asarray(self.sequences, jnp.int32),
            new_token_dests=hax.named(slots, "position"),
            page_size=PAGE_SIZE,
        )


def has_cache(model: LmHeadModel) -> bool:
    """Whether to decode this model with Levanter's cache, which ignores sliding windows."""
    return hasattr(model, "decode") and getattr(model.config, "sliding_window", None) is None


def with_cache(
    model: LmHeadModel,
    prompts: list[list[int]],
    lengths: np.ndarray,
    pad_to: int,
    stop: Stop,
    sampling: Sampling,
    keys: jax.Array,
) -> jax.Array:
    """int32[B, max_new_tokens], -1 after the end of a sequence: see `decoding.decode`."""
    layout = Layout(len(prompts), math.ceil((pad_to + stop.max_new_tokens) / PAGE_SIZE))
    tokens, positions, slots = _flattened(prompts, layout, pad_to)
    return _decode(model, layout, tokens, positions, slots, lengths, stop, sampling, keys)


def _flattened(prompts: list[list[int]], layout: Layout, pad_to: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All prompts one after another, padded to a fixed length: tokens, positions, cache slots."""
    size = len(prompts) * pad_to
    tokens, positions = np.zeros(size, np.int32), np.zeros(size, np.int32)
    slots = np.full(size, INVALID, np.int32)
    start = 0
    for i, prompt in enumerate(prompts):
        part = slice(start, start + len(prompt))
        tokens[part], positions[part] = prompt, np.arange(len(prompt))
        slots[part] = i * layout.capacity + positions[part]
        start = part.stop
    return tokens, positions, slots


@eqx.filter_jit
def _decode(
    model: LmHeadModel,
    layout: Layout,
    tokens: ArrayLike,
    positions: ArrayLike,
    slots: ArrayLike,
    lengths: ArrayLike,
    stop: Stop,
    sampling: Sampling,
    keys: jax.Array,
) -> jax.Array:
    lengths = jnp.asarray(lengths)
    cache = model.initial_cache(layout.spec(), dtype=model.get_lm_head().dtype)
    hidden, cache = _hidden(model, cache, tokens, positions, layout.step(lengths, lengths, jnp.asarray(slots)))
    last = hidden["position", hax.named(jnp.cumsum(lengths) - 1, "position")]
    first = next_tokens(model, last, jnp.asarray(0, jnp.int32), sampling, keys)
    first_slots = jnp.arange(layout.sequences, dtype=jnp.int32) * layout.capacity
    one_each = jnp.ones(layout.sequences, jnp.int32)

    def step(carry: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
        i, token, cache, out, done = carry
        out, done = stop.add(i, token, out, done)
        # A sequence that has ended writes within its own pages, and is not read again.
        position = jnp.minimum(lengths + i, layout.capacity - 1)
        info = layout.step(one_each, position + 1, first_slots + position)
        hidden, cache = _hidden(model, cache, token, position, info)
        return i + 1, next_tokens(model, hidden, i + 1, sampling, keys), cache, out, done

    start = (jnp.asarray(0, jnp.int32), first, cache, *stop.begin())
    return jax.lax.while_loop(lambda carry: stop.unfinished(carry[0], carry[4]), step, start)[3]


def _hidden(
    model: LmHeadModel, cache: PyTree, tokens: ArrayLike, positions: ArrayLike, info: PageBatchInfo
) -> tuple[hax.NamedArray, PyTree]:
    """Hidden states of `tokens`, and the cache with them added. The head is applied later, only to the rows needed."""
    embedded = model.embeddings.embed(hax.named(jnp.asarray(tokens), "position"))
    return model.transformer.decode(cache, embedded, info, hax.named(jnp.asarray(positions), "position"))
