"""Attention of packed rows by each kernel: as of plain attention over each document alone, gradients too."""

import contextlib
import dataclasses

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from levanter.layers.attention import AttentionConfig

from marin_sft.errors import TrainingError
from marin_sft.training.attention import kernels
from marin_sft.training.attention.packed import PackedMask
from tests.training.attention.interpreted import interpreted

LENGTH = 256
DOCUMENTS = [[100, 80, 50], [256], [1, 130, 60]]  # tokens, by row; the rest of a row is padding
AXES = ("batch", "kv_head", "q_heads_per_group", "position", "head_size")
KERNELS = {"triton": kernels.Tokamax("triton"), "chunked": kernels.chunked, "cpu_blocks": kernels.cpu_blocks}


def config(**changes) -> AttentionConfig:
    return dataclasses.replace(AttentionConfig(Embed=hax.Axis("embed", 256), num_heads=4, num_kv_heads=2), **changes)


def segments() -> np.ndarray:
    rows = np.full((len(DOCUMENTS), LENGTH), -1, np.int32)
    for row, lengths in zip(rows, DOCUMENTS, strict=True):
        row[: sum(lengths)] = np.repeat(np.arange(len(lengths)), lengths)
    return rows


def branches() -> np.ndarray:
    """In each row by turns: the shared prefix, one branch, the other."""
    return np.tile((np.arange(LENGTH, dtype=np.int32) // 25) % 3, (len(DOCUMENTS), 1))


def inputs(settings: AttentionConfig, dtype: jnp.dtype) -> list[jax.Array]:
    rng, size = np.random.default_rng(0), settings.HeadSize.size
    shapes = [(len(DOCUMENTS), 2, 2, LENGTH, size)] + 2 * [(len(DOCUMENTS), 2, LENGTH, size)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def by(kernel, settings: AttentionConfig, branch: np.ndarray | None = None, rows: np.ndarray | None = None):
    """A function of queries, keys and values."""
    mask = PackedMask.of(*(
        None if array is None else hax.named(jnp.asarray(array), ("batch", "position"))
        for array in (segments() if rows is None else rows, branch)
    ))  # fmt: skip

    def attention(queries, keys, values):
        of_keys = tuple(axis for axis in AXES if axis != "q_heads_per_group")
        named = (hax.named(queries, AXES), hax.named(keys, of_keys), hax.named(values, of_keys))
        return kernel(*named, mask, settings).rearrange(AXES).array

    return attention


def plain(settings: AttentionConfig, branch: np.ndarray | None = None):
    """Each document alone, in float32, with all its scores."""

    def attention(queries, keys, values):
        queries, keys, values = (array.astype(jnp.float32) for array in (queries, keys, values))
        found = jnp.zeros(queries.shape, jnp.float32)
        for row, lengths in enumerate(DOCUMENTS):
            for end, length in zip(np.cumsum(lengths), lengths, strict=True):
                at = slice(end - length, end)
                q, k, v = queries[row, :, :, at], keys[row, :, at], values[row, :, at]
                scores = jnp.einsum("hgqd,hkd->hgqk", q, k) * (settings.scaling_factor or q.shape[-1] ** -0.5)
                if settings.logits_soft_cap is not None:
                    scores = settings.logits_soft_cap * jnp.tanh(scores / settings.logits_soft_cap)
                back = np.subtract.outer(np.arange(length), np.arange(length))
                seen = (back >= 0) & (back < (settings.sliding_window or LENGTH))
                if branch is not None:
                    of = branch[row, at]
                    seen &= (of[None, :] == 0) | (of[:, None] == of[None, :])
                weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
                found = found.at[row, :, :, at].set(jnp.einsum("hgqk,hkd->hgqd", weights, v))
        return found

    return attention


def outputs_and_gradients(attention, arrays):
    is_token = jnp.asarray(segments() >= 0)[:, None, None, :, None]
    factors = jnp.asarray(np.random.default_rng(1).normal(size=arrays[0].shape), jnp.float32)

    def loss(*arrays):
        found = jnp.where(is_token, attention(*arrays), 0)
        return (factors * found.astype(jnp.float32)).sum(), found

    gradients, found = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return [np.asarray(array, np.float32) for array in (found, *gradients)]


def relative_errors(got, expected) -> list[float]:
    return [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(got, expected, strict=True)]


@pytest.fixture(params=KERNELS)
def kernel(request):
    with contextlib.ExitStack() as stack:
        if request.param == "triton":
            for patch in interpreted():
                stack.enter_context(patch)
        yield KERNELS[request.param]


SETTINGS = {
    "heads of 64": {},
    "heads of 128": {"head_dim": 128},
    "scaled": {"scaling_factor": 0.2},
    "a window": {"sliding_window": 37},
    "a soft cap": {"logits_soft_cap": 2.0},
}
COMPUTED = {"triton": SETTINGS.keys() - {"a soft cap"}, "cpu_blocks": {"heads of 64", "heads of 128", "scaled"}}


# For what the others cannot compute, they are not chosen: see test_choice.
@pytest.mark.parametrize(
    ("kernel", "what"),
    [(kernel, what) for kernel in KERNELS for what in SETTINGS if what in COMPUTED.get(kernel, SETTINGS)],
    indirect=["kernel"],
)
def test_packed_documents_are_as_each_alone(kernel, what):
    settings = config(**SETTINGS[what])
    arrays = inputs(settings, jnp.float32)
    got = outputs_and_gradients(by(kernel, settings), arrays)
    assert max(relative_errors(got, outputs_and_gradients(plain(settings), arrays))) < 2e-6


@pytest.mark.parametrize(("size", "block"), [(128, 32), (256, 16)], ids=["512 bytes", "1024 bytes"])
@pytest.mark.parametrize("kernel", ["triton"], indirect=True)
def test_large_heads_on_gpus_with_little_shared_memory(kernel, size, block, monkeypatch):
    monkeypatch.setattr(kernels.described_devices, "shared_memory", lambda capability: 99 << 10)
    op = kernels._tokamax("triton", 4 * size)
    assert (op.config.block_q, op.vjp.config.block_m1) == (block, block)
    settings = config(head_dim=size)
    arrays = inputs(settings, jnp.float32)
    got = outputs_and_gradients(by(kernel, settings), arrays)
    assert max(relative_errors(got, outputs_and_gradients(plain(settings), arrays))) < 2e-6


def test_branches_of_a_shared_prefix(kernel):
    arrays = inputs(config(), jnp.float32)
    got = outputs_and_gradients(by(kernel, config(), branches()), arrays)
    assert max(relative_errors(got, outputs_and_gradients(plain(config(), branches()), arrays))) < 2e-6


def test_bfloat16(kernel):
    arrays = inputs(config(), jnp.bfloat16)
    got = outputs_and_gradients(by(kernel, config()), arrays)
    assert max(relative_errors(got, outputs_and_gradients(plain(config()), arrays))) < 5e-3


def test_a_kernel_that_ignores_documents_would_be_noticed(kernel):
    arrays, whole = inputs(config(), jnp.float32), np.zeros_like(segments())
    got = outputs_and_gradients(by(kernel, config(), rows=whole), arrays)
    assert min(relative_errors(got, outputs_and_gradients(plain(config()), arrays))) > 0.1


def test_what_a_kernel_cannot_compute():
    settings = config(logits_soft_cap=2.0)
    with pytest.raises(TrainingError, match=r"triton cannot .*: the backward pass has no soft cap; .*'jax_flash'"):
        by(KERNELS["triton"], settings)(*inputs(settings, jnp.float32))


def test_starts_of_documents():
    found = kernels.document_starts(jnp.asarray([[0, 0, 1, 1, 1, -1, -1], [3, 3, 3, 3, 0, 2, 2]]))
    assert found.tolist() == [[0, 0, 2, 2, 2, 5, 6], [0, 0, 0, 0, 4, 5, 5]]
