"""Attention for CPUs that skips what the documents of packed rows cannot see.

Accelerators have kernels for that. On a CPU, Levanter computes the scores of all pairs of positions in a row.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import haliax as hax
import jax
import jax.numpy as jnp
from haliax.jax_utils import maybe_rng_split
from levanter.layers.attention import Attention, AttentionBackend, AttentionMask

from marin_sft.training.axes import BATCH, POSITION
from marin_sft.training.cpu.one_cpu import on_one_cpu
from marin_sft.training.cpu.packed_attention import Rows, packed_attention

if TYPE_CHECKING:
    from levanter.models.lm_model import LmHeadModel

_HEADS = ("kv_head", "q_heads_per_group", "head_size")


class PackedMask(AttentionMask):
    """Causal within `segment_ids`; see `Rows` for `branch` (batch, position). None: one branch."""

    branch: hax.NamedArray | None = None

    @staticmethod
    def of(segment_ids: hax.NamedArray, branch: hax.NamedArray | None) -> PackedMask:
        return PackedMask(is_causal=True, segment_ids=(segment_ids, segment_ids), branch=branch)

    def rows(self) -> Rows:
        assert self.segment_ids is not None
        segments = self.segment_ids[0].rearrange((BATCH, POSITION)).array
        branches = jnp.zeros_like(segments) if self.branch is None else self.branch.rearrange((BATCH, POSITION)).array
        return Rows(segments, branches)


class PackedAttention(Attention):
    """Levanter's attention for a `PackedMask`."""

    def __call__(
        self,
        x: hax.NamedArray,
        mask: AttentionMask,
        *,
        key: jax.Array | None = None,
        pos_ids: hax.NamedArray | None = None,
    ) -> hax.NamedArray:
        assert isinstance(mask, PackedMask)
        key_qkv, key_out = maybe_rng_split(key, 2)
        queries, keys, values = self._compute_qkv(x, key=key_qkv, pos_ids=pos_ids)
        kv_heads, group, size = _HEADS
        queries = queries.rearrange((BATCH, kv_heads, group, POSITION, size))
        keys, values = (array.rearrange((BATCH, kv_heads, POSITION, size)) for array in (keys, values))
        scale = self.config.scaling_factor or 1 / math.sqrt(queries.axis_size(size))
        found = packed_attention(queries.array * scale, keys.array, values.array, mask.rows())
        output = hax.named(found, queries.axes).flatten_axes((kv_heads, group), "heads")
        return cast(hax.NamedArray, self.o_proj(output.astype(x.dtype), key=key_out))


def can_pack(model: LmHeadModel) -> bool:
    """Whether `with_packed_attention` computes the same: all attention is plain, and there is one CPU."""
    found = [layer for layer in _attention_layers(model) if isinstance(layer, Attention)]
    plain = all(
        type(layer) is Attention
        and layer.config.attn_backend == AttentionBackend.VANILLA
        and layer.config.sliding_window is None
        and layer.config.logits_soft_cap is None
        for layer in found
    )
    return bool(found) and plain and on_one_cpu()


def with_packed_attention(model: LmHeadModel) -> LmHeadModel:
    """The same weights in a model that takes a `PackedMask`."""

    def packed(layer: object) -> object:
        return PackedAttention(**vars(layer)) if isinstance(layer, Attention) else layer

    return jax.tree_util.tree_map(packed, model, is_leaf=_is_attention)


def _attention_layers(model: LmHeadModel) -> list[object]:
    return jax.tree_util.tree_leaves(model, is_leaf=_is_attention)


def _is_attention(layer: object) -> bool:
    return isinstance(layer, Attention)
