"""Levanter's attention layers with another kernel for the scores, one that knows the documents of packed rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast

import equinox as eqx
import haliax as hax
import jax
from haliax.jax_utils import maybe_rng_split
from levanter.layers.attention import Attention, AttentionConfig, AttentionMask
from levanter.models.olmo import Olmo2Attention

from marin_sft.training.axes import POSITION
from marin_sft.training.models.recomputation import named_attention

if TYPE_CHECKING:
    from levanter.models.lm_model import LmHeadModel

KV_HEAD, GROUP, SIZE = "kv_head", "q_heads_per_group", "head_size"


class PackedMask(AttentionMask):
    """Causal within `segment_ids`. `branch` (batch, position): a token sees only tokens of branch 0 and of its own
    branch. None: one branch."""

    branch: hax.NamedArray | None = None

    @staticmethod
    def of(segment_ids: hax.NamedArray, branch: hax.NamedArray | None) -> PackedMask:
        return PackedMask(is_causal=True, segment_ids=(segment_ids, segment_ids), branch=branch)

    @property
    def segments(self) -> hax.NamedArray:
        assert self.segment_ids is not None
        return self.segment_ids[0]


Kernel: TypeAlias = Callable[
    [hax.NamedArray, hax.NamedArray, hax.NamedArray, PackedMask, AttentionConfig], hax.NamedArray
]
"""From queries (batch, kv_head, q_heads_per_group, position, head_size), not scaled, keys and values (batch, kv_head,
position, head_size), a mask, and the layer's config with window, scale and soft cap, to an array like the queries."""


class PackedAttention(Attention):
    """Levanter's attention for a `PackedMask`."""

    kernel: Kernel = eqx.field(static=True, kw_only=True)

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
        queries = queries.rearrange((..., KV_HEAD, GROUP, POSITION, SIZE))
        keys, values = (array.rearrange((..., KV_HEAD, POSITION, SIZE)) for array in (keys, values))
        found = self.kernel(queries, keys, values, mask, self.config)
        found = hax.named(named_attention(found.array), found.axes).flatten_axes((KV_HEAD, GROUP), "heads")
        return cast(hax.NamedArray, self.o_proj(found.astype(x.dtype), key=key_out))


def with_packed_attention(model: LmHeadModel, kernel: Kernel) -> LmHeadModel:
    """The same weights in a model that takes a `PackedMask`."""

    def packed(layer: object) -> object:
        if not isinstance(layer, Attention):
            return layer
        fields = {field.name: getattr(layer, field.name) for field in dataclasses.fields(Attention)}
        return PackedAttention(**fields, kernel=kernel)

    return jax.tree_util.tree_map(packed, model, is_leaf=_is_attention)


def configs_of(model: LmHeadModel) -> list[AttentionConfig]:
    """Of all attention layers; a stack of layers counts once. []: some compute more than scores and products."""
    layers = [layer for layer in jax.tree_util.tree_leaves(model, is_leaf=_is_attention) if _is_attention(layer)]
    return [layer.config for layer in layers] if all(map(_is_plain, layers)) else []


def scale_of(config: AttentionConfig) -> float:
    """What scores are multiplied with."""
    return cast(float, config.scaling_factor or config.HeadSize.size**-0.5)


def _is_plain(layer: Attention) -> bool:
    return type(layer) is Attention or (type(layer) is Olmo2Attention and layer.attention_dropout == 0)


def _is_attention(layer: object) -> bool:
    return isinstance(layer, Attention)
