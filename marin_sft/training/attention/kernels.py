"""The kernels for `PackedAttention`: see `choice` for which of them is used where."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

import haliax as hax
import jax
import jax.numpy as jnp
from haliax.partitioning import physical_axis_name, physical_axis_size, pspec_for_axis
from levanter.layers.attention import AttentionConfig

from marin_sft.errors import TrainingError
from marin_sft.training import described_devices
from marin_sft.training.attention.cpu_blocks import Rows, packed_attention
from marin_sft.training.attention.packed import GROUP, KV_HEAD, SIZE, PackedMask, scale_of
from marin_sft.training.axes import BATCH, POSITION

_QUERIES_AT_ONCE = 128
# Bytes of shared memory for each byte of a head, with Triton and tokamax's own blocks. Measured by compiling.
_SHARED_BY_DEFAULT = 213

Compute: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array, Rows, jax.Array], jax.Array]
"""From queries [rows, n, kv_heads, heads_per_kv, size], keys and values [rows, positions, kv_heads, size], `Rows` of
all positions, and the position of the first query, to an array like the queries."""


def cpu_blocks(
    queries: hax.NamedArray, keys: hax.NamedArray, values: hax.NamedArray, mask: PackedMask, config: AttentionConfig
) -> hax.NamedArray:
    """For one CPU, without windows and soft caps."""
    queries = queries.rearrange((BATCH, KV_HEAD, GROUP, POSITION, SIZE))
    keys, values = (array.rearrange((BATCH, KV_HEAD, POSITION, SIZE)) for array in (keys, values))
    found = packed_attention(queries.array * scale_of(config), keys.array, values.array, _rows(mask))
    return hax.named(found, queries.axes)


@dataclass(frozen=True)
class Tokamax:
    """The kernels of the package tokamax for GPUs. They skip the keys before a query's document or window.

    implementation: tokamax's name: "mosaic_gpu" (Hopper and Blackwell, 16-bit types only) or "triton" (Ampere and
        newer; the backward pass has no soft cap).
    """

    implementation: str

    def __call__(
        self,
        queries: hax.NamedArray,
        keys: hax.NamedArray,
        values: hax.NamedArray,
        mask: PackedMask,
        config: AttentionConfig,
    ) -> hax.NamedArray:
        """
        Raises:
            TrainingError: the kernel cannot compute this.
        """
        if self.implementation == "triton" and config.logits_soft_cap is not None:
            raise _cannot(self.implementation, "the backward pass has no soft cap")
        return _on_each_device(functools.partial(self._here, config), queries, keys, values, mask)

    def _here(
        self, config: AttentionConfig, q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows, first: jax.Array
    ) -> jax.Array:
        # The public function has no argument for the first key that each query sees.
        from tokamax._src.ops.attention.base import Mask

        prepare_tokamax()
        batch, count, kv_heads, group, size = q.shape
        at = first + jnp.arange(count)
        starts = jax.lax.dynamic_slice_in_dim(first_seen(rows, config), first, count, axis=1)
        whole = count == k.shape[1]
        mask = Mask(
            None if rows.branches is None else _same_branch(rows.branches, at)[:, None],
            k_start=starts[:, None],
            k_end=None if whole else jnp.broadcast_to(at + 1, starts.shape)[:, None],
            is_causal=whole,
        )
        try:
            found = _tokamax(self.implementation, size * q.dtype.itemsize)(
                q.reshape(batch, count, kv_heads * group, size),
                k,
                v,
                mask=mask,
                logits_scale=scale_of(config),
                logits_soft_cap=config.logits_soft_cap,
            )
        except NotImplementedError as error:
            raise _cannot(self.implementation, str(error)) from error
        return cast(jax.Array, found).reshape(q.shape)


@functools.cache
def prepare_tokamax() -> None:
    """Before its first use: it reads no arguments, and is quiet."""
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # else it takes the arguments of the user's script for its own
    # It warns, in a thousand characters for each kernel, that it has not measured the best block sizes.
    logging.getLogger("absl").addFilter(lambda record: not record.getMessage().startswith("Autotuning cache miss"))


def _tokamax(implementation: str, head_bytes: int) -> Callable[..., jax.Array]:
    """The function of tokamax. head_bytes: of one head at one position."""
    from tokamax._src.ops.attention.api import IMPLEMENTATIONS

    here = jax.devices()[0]
    shared = described_devices.shared_memory(getattr(here, "compute_capability", "9.0"))  # CPUs, which interpret: any
    if implementation != "triton" or head_bytes * _SHARED_BY_DEFAULT <= shared:
        return cast(Callable[..., jax.Array], IMPLEMENTATIONS[implementation])
    from tokamax._src.ops.attention import pallas_triton, pallas_triton_vjp

    size = 32 if head_bytes <= 512 else 16
    rest = {"num_stages": 1, "num_warps": 4}
    backward = pallas_triton_vjp.Config(block_m1=size, block_n1=size, block_m2=size, block_n2=size, **rest)
    found = pallas_triton.PallasTritonFlashAttention(
        config=pallas_triton.Config(block_q=size, block_k=size, **rest),
        vjp=pallas_triton_vjp.PallasTritonFlashAttentionVjp(config=backward),
    )
    return cast(Callable[..., jax.Array], found)


def _cannot(implementation: str, why: str) -> TrainingError:
    return TrainingError(
        f"attention: tokamax's {implementation} cannot compute this model: {why}; expected "
        "attention_backend = 'jax_flash', which is slower"
    )


def chunked(
    queries: hax.NamedArray, keys: hax.NamedArray, values: hax.NamedArray, mask: PackedMask, config: AttentionConfig
) -> hax.NamedArray:
    """In plain JAX, for CPUs whose devices have different positions. Only the scores of some queries are in memory at a
    time. The backward pass computes them again."""

    def here(q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows, first: jax.Array) -> jax.Array:
        starts = first_seen(rows, config)

        @jax.checkpoint
        def of_some(some: tuple[jax.Array, jax.Array]) -> jax.Array:
            q, at = some
            scores = jnp.einsum("bqhgd,bkhd->bhgqk", q, k, preferred_element_type=jnp.float32) * scale_of(config)
            if config.logits_soft_cap is not None:
                scores = config.logits_soft_cap * jnp.tanh(scores / config.logits_soft_cap)
            places = jnp.arange(k.shape[1])
            seen = (places <= at[:, None]) & (places >= starts[:, at, None])
            if rows.branches is not None:
                seen &= _same_branch(rows.branches, at)
            weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf), axis=-1).astype(v.dtype)
            return jnp.einsum("bhgqk,bkhd->bqhgd", weights, v)

        count = q.shape[1]
        size = next(size for size in range(min(_QUERIES_AT_ONCE, count), 0, -1) if count % size == 0)
        parts = q.reshape(len(q), -1, size, *q.shape[2:]).swapaxes(0, 1)
        found = jax.lax.map(of_some, (parts, (first + jnp.arange(count)).reshape(-1, size)))
        return found.swapaxes(0, 1).reshape(q.shape)

    return _on_each_device(here, queries, keys, values, mask)


def of_equal_memory(
    queries: hax.NamedArray, keys: hax.NamedArray, values: hax.NamedArray, mask: PackedMask, config: AttentionConfig
) -> hax.NamedArray:
    """As large as a flash attention kernel of another platform, to predict what it takes. Computes something else."""

    def here(q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows, first: jax.Array) -> jax.Array:
        return _something(q, k, v)

    return _on_each_device(here, queries, keys, values, mask)


@jax.custom_vjp
def _something(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return _something_forward(q, k, v)[0]


def _something_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The output, and what the backward pass needs: in flash attention, also the log of each query's sum."""
    found = q + (k + v).mean(axis=1, keepdims=True)[..., None, :]
    return found, (q, k, v, found, found[..., 0].astype(jnp.float32))


def _something_backward(kept: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v, found, sums = kept
    by_query = gradient * q + found * sums[..., None].astype(q.dtype)
    by_key = by_query.mean(axis=(1, 3))[:, None] * k
    return by_query, by_key, by_key * v


_something.defvjp(_something_forward, _something_backward)


def first_seen(rows: Rows, config: AttentionConfig) -> jax.Array:
    """int32[rows, positions]: the first position that each one sees, of its document and its window."""
    starts = document_starts(rows.segments)
    if config.sliding_window is None:
        return starts
    return jnp.maximum(starts, jnp.arange(starts.shape[1]) - config.sliding_window + 1)


def document_starts(segments: jax.Array) -> jax.Array:
    """int32[rows, positions], the first position of each one's document, from int32[rows, positions]. A document is a
    run of equal numbers. Each position of padding (-1) is its own."""
    at = jnp.arange(segments.shape[1], dtype=jnp.int32)
    before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return jax.lax.cummax(jnp.where((segments != before) | (segments < 0), at, 0), axis=1)


def _same_branch(branches: jax.Array, queries: jax.Array) -> jax.Array:
    """bool[rows, queries, positions]: whether a query at one of the positions `queries` may see each position."""
    of_query = branches[:, queries, None]
    return (branches[:, None] == 0) | (branches[:, None] == of_query)


def _rows(mask: PackedMask) -> Rows:
    segments = mask.segments.rearrange((BATCH, POSITION)).array
    return Rows(segments, None if mask.branch is None else mask.branch.rearrange((BATCH, POSITION)).array)


def _on_each_device(
    compute: Compute, queries: hax.NamedArray, keys: hax.NamedArray, values: hax.NamedArray, mask: PackedMask
) -> hax.NamedArray:
    """`compute` by each device for its own rows, heads and queries. Where positions are spread, each device gathers the
    keys and values of all positions. They are small, since models have few key heads."""
    queries = queries.rearrange((BATCH, POSITION, KV_HEAD, GROUP, SIZE))
    keys, values = (array.rearrange((BATCH, POSITION, KV_HEAD, SIZE)) for array in (keys, values))
    arguments = (queries.array, keys.array, values.array, _rows(mask))
    if jax.sharding.get_abstract_mesh().empty:
        return hax.named(compute(*arguments, jnp.int32(0)), queries.axes)
    spread = physical_axis_name(POSITION) if spreads_positions() else None

    def here(q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows) -> jax.Array:
        first = jnp.int32(0)
        if spread is not None:
            first = jax.lax.axis_index(spread) * q.shape[1]
            k, v, rows = jax.lax.all_gather((k, v, rows), spread, axis=1, tiled=True)
        return compute(q, k, v, rows, first)

    in_specs = (*map(pspec_for_axis, (queries.axes, keys.axes, values.axes)), pspec_for_axis(queries.axes[:2]))
    found = jax.shard_map(here, in_specs=in_specs, out_specs=in_specs[0], check_vma=False)(*arguments)
    return hax.named(found, queries.axes)


def spreads_positions() -> bool:
    """Whether the current axis mapping spreads the positions of a row over several devices."""
    if physical_axis_name(POSITION) is None or jax.sharding.get_abstract_mesh().empty:
        return False
    return (physical_axis_size(POSITION) or 1) > 1
