"""Attention block by block within documents, against all scores of a row at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin_sft.training.attention.cpu_blocks import PADDING, Rows, packed_attention

ROWS, KV_HEADS, GROUP, LENGTH, WIDTH = 3, 2, 2, 300, 8
# By row: lengths of the documents, the rest is padding. They end within blocks, at their ends, and far beyond; the last
# block is not whole.
DOCUMENTS = [[5, 60, 63, 100], [300], [128, 1, 30]]


def segments() -> jax.Array:
    found = np.full((ROWS, LENGTH), PADDING, np.int32)
    for row, lengths in zip(found, DOCUMENTS, strict=True):
        ends = np.cumsum(lengths)
        for number, (length, end) in enumerate(zip(lengths, ends, strict=True)):
            row[end - length : end] = number
    return jnp.asarray(found)


def branches() -> jax.Array:
    """In each row's documents by turns: the prefix, one branch, the other."""
    return jnp.tile((jnp.arange(LENGTH) // 25) % 3, (ROWS, 1))


def arrays() -> list[jax.Array]:
    rng = np.random.default_rng(0)
    shapes = [(ROWS, KV_HEADS, GROUP, LENGTH, WIDTH)] + 2 * [(ROWS, KV_HEADS, LENGTH, WIDTH)]
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def dense(queries, keys, values, rows: Rows):
    scores = jnp.einsum("bhgqd,bhkd->bhgqk", queries, keys)
    same = rows.segments[:, :, None] == rows.segments[:, None, :]
    of_query, of_key = rows.branches[:, :, None], rows.branches[:, None, :]
    visible = same & ((of_key == 0) | (of_key == of_query)) & jnp.tri(LENGTH, dtype=bool)
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhgqk,bhkd->bhgqd", weights, values)


@pytest.mark.parametrize("rows", [Rows(segments(), jnp.zeros((ROWS, LENGTH), jnp.int32)), Rows(segments(), branches())],
                         ids=["one branch", "branches"])  # fmt: skip
def test_outputs_and_gradients_are_those_of_all_scores(rows):
    factors = jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, KV_HEADS, GROUP, LENGTH, WIDTH)), jnp.float32)
    is_token = (rows.segments != PADDING)[:, None, None, :, None]

    def both(function):
        def outputs(*inputs):
            return jnp.where(is_token, function(*inputs, rows), 0)

        def loss(*inputs):
            return (factors * jnp.square(outputs(*inputs))).sum()

        return outputs(*arrays()), *jax.grad(loss, argnums=(0, 1, 2))(*arrays())

    for got, expected in zip(both(packed_attention), both(dense), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)


def test_scores_of_any_size_stay_finite():
    queries, keys, values = arrays()
    rows = Rows(segments(), jnp.zeros((ROWS, LENGTH), jnp.int32))
    found, gradient = jax.value_and_grad(lambda q: packed_attention(q, keys, values, rows).sum())(1e4 * queries)
    assert np.isfinite(found) and np.isfinite(gradient).all()
