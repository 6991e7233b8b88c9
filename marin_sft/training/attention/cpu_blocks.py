"""Causal attention within the documents of packed rows, for CPUs.

If a row has many documents, few of its scores are within one document. Queries and keys are split into blocks. For each
block of queries, the blocks of keys that none of them can see are skipped: later ones, those before the document of the
first query, and those of other branches. The backward pass recomputes the scores (FlashAttention-2, arXiv:2307.08691).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

PADDING = -1  # the segment of positions without a token
_BLOCK = 64
_HIDDEN = -1e30  # the score of hidden keys; finite, because a padding query sees nothing else in some blocks


class Rows(NamedTuple):
    """int32[rows, positions] each. Each document of a row is a run of equal `segments`, different from the others.

    A query sees the keys before it in its own segment that are of branch 0 or of its own branch. What queries of
    PADDING see is not defined. `branches` None: one branch.
    """

    segments: jax.Array
    branches: jax.Array | None = None


_Kept = tuple[jax.Array, jax.Array, jax.Array, Rows, jax.Array, jax.Array]


def packed_attention(queries: jax.Array, keys: jax.Array, values: jax.Array, rows: Rows) -> jax.Array:
    """[rows, kv_heads, heads_per_kv, positions, size], like `queries`, which must be scaled.

    `keys`, `values`: [rows, kv_heads, positions, size].
    """
    length = queries.shape[-2]
    missing = -length % _BLOCK  # padding to whole blocks, which no query sees

    def whole(array: jax.Array, axis: int, value: int = 0) -> jax.Array:
        widths = [(0, missing if i == axis % array.ndim else 0) for i in range(array.ndim)]
        return jnp.pad(array, widths, constant_values=value)

    padded = (whole(array, -2) for array in (queries, keys, values))
    branches = None if rows.branches is None else whole(rows.branches, -1)
    return _attention(*padded, Rows(whole(rows.segments, -1, PADDING), branches))[..., :length, :]


@jax.custom_vjp
def _attention(queries: jax.Array, keys: jax.Array, values: jax.Array, rows: Rows) -> jax.Array:
    return _forward(queries, keys, values, rows)[0]


def _forward(queries: jax.Array, keys: jax.Array, values: jax.Array, rows: Rows) -> tuple[jax.Array, _Kept]:
    blocks = _Blocks(queries, rows)

    def of_queries(n: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        row, i = n // blocks.count, n % blocks.count
        q = blocks.of_queries(queries, row, i)

        def of_keys(place: jax.Array, so_far: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            j, (highest, total, output) = blocks.seen[row, i, place], so_far
            scores = blocks.scores(q, blocks.of_keys(keys, row, j), row, i, j)
            new = jnp.maximum(highest, scores.max(axis=-1, keepdims=True))
            powers, shrink = jnp.exp(scores - new), jnp.exp(highest - new)
            here = jnp.einsum("hqk,hkd->hqd", powers, blocks.of_keys(values, row, j))
            return new, total * shrink + powers.sum(axis=-1, keepdims=True), output * shrink + here

        column = jnp.full((*q.shape[:2], 1), -jnp.inf, jnp.float32)
        start = (column, jnp.zeros_like(column), jnp.zeros(q.shape, jnp.float32))
        highest, total, output = jax.lax.fori_loop(0, blocks.seen_count[row, i], of_keys, start)
        outputs, logs = found
        return blocks.put(outputs, output / total, row, i), blocks.put(logs, highest + jnp.log(total), row, i)

    start = (jnp.zeros(queries.shape, jnp.float32), jnp.zeros((*queries.shape[:-1], 1), jnp.float32))
    outputs, logs = jax.lax.fori_loop(0, blocks.rows * blocks.count, of_queries, start)
    outputs = outputs.astype(queries.dtype)
    return outputs, (queries, keys, values, rows, outputs, logs)


def _backward(kept: _Kept, gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    queries, keys, values, rows, outputs, logs = kept
    blocks = _Blocks(queries, rows)
    inner = (gradient.astype(jnp.float32) * outputs).sum(axis=-1, keepdims=True)

    def of_queries(n: jax.Array, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        row, i = n // blocks.count, n % blocks.count
        q, log, by_output, dot = (blocks.of_queries(array, row, i) for array in (queries, logs, gradient, inner))

        def of_keys(place: jax.Array, so_far: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            j, (by_q, by_keys, by_values) = blocks.seen[row, i, place], so_far
            k, v = blocks.of_keys(keys, row, j), blocks.of_keys(values, row, j)
            weights = jnp.exp(blocks.scores(q, k, row, i, j) - log)
            by_values = blocks.add(by_values, jnp.einsum("hqk,hqd->hkd", weights, by_output), row, j)
            by_scores = weights * (jnp.einsum("hqd,hkd->hqk", by_output, v) - dot)
            by_keys = blocks.add(by_keys, jnp.einsum("hqk,hqd->hkd", by_scores, q), row, j)
            return by_q + jnp.einsum("hqk,hkd->hqd", by_scores, k), by_keys, by_values

        by_queries, by_keys, by_values = found
        start = (jnp.zeros(q.shape, jnp.float32), by_keys, by_values)
        by_q, by_keys, by_values = jax.lax.fori_loop(0, blocks.seen_count[row, i], of_keys, start)
        return blocks.put(by_queries, by_q, row, i), by_keys, by_values

    start = tuple(jnp.zeros(array.shape, jnp.float32) for array in (queries, keys, values))
    found = jax.lax.fori_loop(0, blocks.rows * blocks.count, of_queries, start)
    return *(by.astype(queries.dtype) for by in found), None


_attention.defvjp(_forward, _backward)


class _Blocks:
    """Each row as `count` blocks of `_BLOCK` positions. Heads that share keys are handled as one with more queries.

    seen: int[rows, count, count], for each block of queries the blocks of keys that it may see, then the others.
    seen_count: int[rows, count], how many it may see.
    """

    def __init__(self, queries: jax.Array, rows: Rows) -> None:
        self.rows, self.kv_heads, self.group, length, self.width = queries.shape
        self.size = _BLOCK
        self.count = length // _BLOCK
        # Kept in blocks: slices of whole rows would be looked up again for each score.
        branches = jnp.zeros_like(rows.segments) if rows.branches is None else rows.branches
        self._segments, self._branches = (a.reshape(self.rows, self.count, -1) for a in (rows.segments, branches))
        seen = self._may_see()
        self.seen, self.seen_count = jnp.argsort(~seen, axis=-1, stable=True), seen.sum(axis=-1)

    def _may_see(self) -> jax.Array:
        """bool[rows, count, count]: False if no query of the block sees any key of the other block.

        An earlier block of keys shares at most one document with the queries: the document of its last key.
        """
        segments, branches = self._segments, self._branches
        lowest, highest = branches.min(axis=-1), branches.max(axis=-1)
        same = (segments[:, :, None, 0] == segments[:, None, :, -1]) & (segments[:, :, None, 0] != PADDING)
        shared = (highest[:, :, None] >= lowest[:, None]) & (lowest[:, :, None] <= highest[:, None])
        before = jnp.tri(self.count, k=-1, dtype=bool) & same & (shared | (lowest == 0)[:, None])
        return before | jnp.eye(self.count, dtype=bool)

    def of_queries(self, array: jax.Array, row: jax.Array, i: jax.Array) -> jax.Array:
        """[kv_heads, heads_per_kv * size, ...], a block of [rows, kv_heads, heads_per_kv, positions, ...]."""
        shape = (1, self.kv_heads, self.group, self.size, array.shape[-1])
        found = jax.lax.dynamic_slice(array, (row, 0, 0, i * self.size, 0), shape)
        return found.reshape(self.kv_heads, -1, array.shape[-1])

    def put(self, array: jax.Array, block: jax.Array, row: jax.Array, i: jax.Array) -> jax.Array:
        block = block.reshape(1, self.kv_heads, self.group, self.size, -1)
        return jax.lax.dynamic_update_slice(array, block, (row, 0, 0, i * self.size, 0))

    def of_keys(self, array: jax.Array, row: jax.Array, j: jax.Array) -> jax.Array:
        """[kv_heads, size, width], a block of [rows, kv_heads, positions, width]."""
        return jax.lax.dynamic_slice(array, (row, 0, j * self.size, 0), (1, self.kv_heads, self.size, self.width))[0]

    def add(self, array: jax.Array, block: jax.Array, row: jax.Array, j: jax.Array) -> jax.Array:
        new = (self.of_keys(array, row, j) + block)[None]
        return jax.lax.dynamic_update_slice(array, new, (row, 0, j * self.size, 0))

    def scores(self, q: jax.Array, k: jax.Array, row: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        """float32[kv_heads, queries, size]. Scores of keys that a query does not see are so low that their weight is
        0."""
        scores = jnp.einsum("hqd,hkd->hqk", q, k, preferred_element_type=jnp.float32)
        visible = jnp.tile(self._visible(row, i, j), (self.group, 1))
        return jnp.where(visible, scores, _HIDDEN)

    def _visible(self, row: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        """bool[queries, keys]"""
        places = jnp.arange(self.size)
        before = (j * self.size + places) <= (i * self.size + places)[:, None]
        (of_query, of_key), (query_branch, key_branch) = (
            (array[row, i][:, None], array[row, j]) for array in (self._segments, self._branches)
        )
        return before & (of_query == of_key) & ((key_branch == 0) | (key_branch == query_branch))
