"""Batched decoding: adds a token to each sequence until one ends it.

A batch has a program that reads its prompts, and one that adds tokens. Sizes are rounded up (see `rounded`), so that
batches of about the same size share their programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from levanter.models.lm_model import LmHeadModel

from marin_sft.evaluation import kv_cache
from marin_sft.evaluation.kv_cache import Cache, Columns
from marin_sft.evaluation.sampling import GREEDY, Choice, Sampling, Stop, next_tokens

_SHORTEST_PROMPT, _FEWEST_NEW = 64, 16  # tokens


def decode(
    model: LmHeadModel,
    prompts: Sequence[Sequence[int]],
    ends: Sequence[int],
    max_new_tokens: int,
    pad_to: int = 0,
    sampling: Sampling = GREEDY,
    first: int = 0,
    numbers: Sequence[int] | None = None,
    rows: int | None = None,
) -> list[list[int]]:
    """A continuation of each prompt, up to and including the first id of `ends`.

    pad_to: prompts are padded to at least so many tokens.
    first, numbers: the number of the first prompt, or those of all. Sampling depends on a prompt's number, not on the
        other prompts.
    rows: the batch is padded to so many prompts. None: to the next power of two.
    Sequences stop at the model's maximum length.
    """
    numbers = range(first, first + len(prompts)) if numbers is None else numbers
    batch = _Batch.of(model, prompts, ends, max_new_tokens, pad_to, sampling, numbers, rows)
    state = _begin(batch)
    if not np.asarray(state.done).all():  # else the second program would be compiled for nothing
        state = _add(batch, state, np.int32(max_new_tokens))
    return [[int(token) for token in row if token >= 0] for row in np.asarray(state.out)[: len(prompts)]]


def stream(
    model: LmHeadModel,
    prompt: Sequence[int],
    ends: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    number: int = 0,
) -> Iterator[int]:
    """The tokens of `decode` for one prompt with this number, each as soon as it is known."""
    batch = _Batch.of(model, [prompt], ends, max_new_tokens, 0, sampling, [number], None)
    state, made = _begin(batch), 1
    yield int(np.asarray(state.last)[0])
    while not np.asarray(state.done)[0]:
        made += 1
        state = _add(batch, state, np.int32(made))
        yield int(np.asarray(state.last)[0])


def has_ended(answer: Sequence[int], ends: Sequence[int]) -> bool:
    """Whether an answer of `decode` or `stream` ended by itself, with one of `ends`, and was not cut."""
    return bool(answer) and answer[-1] in ends


def prompt_columns(length: int) -> int:
    """How many columns of a batch a prompt of so many tokens needs."""
    return rounded(length, _SHORTEST_PROMPT)


def rounded(size: int, least: int = 1) -> int:
    """The smallest power of two, or three halves of one, that is at least `size` and `least`."""
    power = max(least, 1)
    while power < size:
        if power >= 64 and power * 3 // 2 >= size:
            return power * 3 // 2
        power *= 2
    return power


class _Batch(eqx.Module):
    """All that does not change while tokens are added. tokens: int32[batch, position]. lengths: int32[batch]."""

    model: LmHeadModel
    tokens: np.ndarray
    lengths: np.ndarray
    stop: Stop
    choice: Choice
    new_columns: int = eqx.field(static=True)

    @staticmethod
    def of(
        model: LmHeadModel,
        prompts: Sequence[Sequence[int]],
        ends: Sequence[int],
        max_new_tokens: int,
        pad_to: int,
        sampling: Sampling,
        numbers: Sequence[int],
        rows: int | None,
    ) -> _Batch:
        rows = rows or rounded(len(prompts))
        longest = max(pad_to, *(len(prompt) for prompt in prompts))
        size = min(prompt_columns(longest), model.max_length)
        tokens, lengths, room = np.zeros((rows, size), np.int32), np.ones(rows, np.int32), np.zeros(rows, np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
            room[row] = min(model.max_length - len(prompt), max_new_tokens)
        stop = Stop(room, np.array(ends, np.int32))
        choice = Choice.of(sampling, [*numbers, *[0] * (rows - len(prompts))])
        return _Batch(model, tokens, lengths, stop, choice, rounded(min(max_new_tokens, model.max_length), _FEWEST_NEW))


class _State(eqx.Module):
    """After `made` tokens of each answer. last: int32[batch]. out: int32[batch, new_columns], -1 after the end of an
    answer. done: bool[batch], whether an answer has ended."""

    made: jax.Array
    last: jax.Array
    caches: list[Cache]
    out: jax.Array
    done: jax.Array


@eqx.filter_jit
def _begin(batch: _Batch) -> _State:
    """Reads the prompts and makes the first token of each answer."""
    lengths = jnp.asarray(batch.lengths)
    rows, size = batch.tokens.shape
    hidden, caches = kv_cache.fill(batch.model, jnp.asarray(batch.tokens), size + batch.new_columns)
    hidden = hidden.rearrange(("batch", "position", "embed"))
    at_end = hax.named(hidden.array[jnp.arange(rows), lengths - 1], ("batch", batch.model.Embed))
    made = jnp.asarray(0, jnp.int32)
    token = next_tokens(batch.model, at_end, made, batch.choice)
    out, done = batch.stop.add(made, token, *batch.stop.begin(batch.new_columns))
    return _State(made + 1, token, caches, out, done)


@eqx.filter_jit(donate="all-except-first")
def _add(batch: _Batch, state: _State, until: ArrayLike) -> _State:
    """Adds tokens until there are `until` of each answer, or all have ended."""
    lengths = jnp.asarray(batch.lengths)

    def step(state: _State) -> _State:
        columns = Columns(lengths, state.made - 1, batch.tokens.shape[1])
        hidden, caches = kv_cache.add(batch.model, state.last, state.caches, columns)
        token = next_tokens(batch.model, hidden, state.made, batch.choice)
        out, done = batch.stop.add(state.made, token, state.out, state.done)
        return _State(state.made + 1, token, caches, out, done)

    return jax.lax.while_loop(lambda state: (state.made < until) & ~state.done.all(), step, state)
