"""A model with a cache of its keys and values: a new token costs a pass over that token alone.

This works for every family, because only two things of a model are exchanged: what loops over its layers, and the
attention inside a layer. Prompts go through the model's own attention, with its kernel and windows. New tokens attend
to the cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax.nn.scan import BlockFoldable, BlockSeq, ScanCheckpointPolicy
from levanter.layers.attention import Attention, AttentionMask, simple_attention_with_dropout

from marin_sft.training.attention.packed import GROUP, KV_HEAD, SIZE
from marin_sft.training.axes import BATCH, POSITION

if TYPE_CHECKING:
    from levanter.models.lm_model import LmHeadModel

COLUMN = "column"
_ThroughAll: TypeAlias = Callable[..., tuple[hax.NamedArray, list["Cache"]]]


class Cache(eqx.Module):
    """The keys and values of a layer: (batch, kv_head, column, head_size)."""

    keys: hax.NamedArray
    values: hax.NamedArray

    @staticmethod
    def of(keys: hax.NamedArray, values: hax.NamedArray, columns: int) -> Cache:
        """With those of a prompt in the first columns, and room for more."""
        room = columns - keys.axis_size(POSITION)
        return Cache(*(hax.pad(_by_column(array), {COLUMN: (0, room)}) for array in (keys, values)))

    def with_column(self, column: jax.Array, keys: hax.NamedArray, values: hax.NamedArray) -> Cache:
        old, new = (self.keys, self.values), (keys, values)
        return Cache(*(a.updated_slice({COLUMN: column}, _by_column(b)) for a, b in zip(old, new, strict=True)))


class Columns(eqx.Module):
    """What the columns hold when a token is added to each sequence. A prompt starts in column 0. The answers start
    together, in column `prompt`, so that all sequences write to one column.

    lengths: int32[batch], of the prompts. prompt: columns for prompts. new: the number of the token in its answer.
    """

    lengths: jax.Array
    new: jax.Array
    prompt: int = eqx.field(static=True)

    @property
    def column(self) -> jax.Array:
        return self.prompt + self.new

    @property
    def positions(self) -> hax.NamedArray:
        """Of the new tokens in their sequences."""
        return hax.named((self.lengths + self.new)[:, None], (BATCH, POSITION))

    def seen(self, Column: hax.Axis, window: int | None) -> hax.NamedArray:
        """Which columns the new tokens see: (batch, column)."""
        column, lengths = jnp.arange(Column.size), self.lengths[:, None]
        in_prompt = column < self.prompt
        seen = jnp.where(in_prompt, column < lengths, column <= self.column)
        if window is not None:
            positions = jnp.where(in_prompt, column, lengths + column - self.prompt)
            seen &= lengths + self.new - positions < window
        return hax.named(seen, (BATCH, Column))


def fill(model: LmHeadModel, tokens: jax.Array, columns: int) -> tuple[hax.NamedArray, list[Cache]]:
    """The hidden states (batch, position, embed) of prompts, int32[batch, position], and the caches of all layers.
    Padding comes after the tokens, where causal attention does not see it."""

    def through(layer: Any, x: hax.NamedArray, **given: object) -> tuple[hax.NamedArray, Cache]:
        return _through(layer, x, _Filling(layer.self_attn, columns), **given)

    def through_all(layers: BlockFoldable, x: hax.NamedArray, **given: object) -> tuple[hax.NamedArray, list[Cache]]:
        x, caches = layers.scan_via(through)(x, **given)  # equal layers are compiled once
        parts = [array.unbind(model.config.Layers) for array in (caches.keys, caches.values)]
        return x, [Cache(*part) for part in zip(*parts, strict=True)]

    return _hidden(model, tokens, through_all, AttentionMask.causal(), None)


def add(
    model: LmHeadModel, tokens: jax.Array, caches: list[Cache], columns: Columns
) -> tuple[hax.NamedArray, list[Cache]]:
    """The hidden states (batch, embed) of one token per sequence, int32[batch], and the caches with it."""

    def through_all(layers: BlockFoldable, x: hax.NamedArray, **given: object) -> tuple[hax.NamedArray, list[Cache]]:
        made = []
        # Not scanned: that would copy the weights and caches of each layer.
        for layer, cache in zip(layers.unstacked(), caches, strict=True):
            x, new = _add_in_layer(layer, x, cache, **given)
            made.append(new)
        return x, made

    hidden, made = _hidden(model, tokens[:, None], through_all, columns, columns.positions)
    return hidden[POSITION, 0], made


@eqx.filter_jit  # equal layers are traced once
def _add_in_layer(layer: Any, x: hax.NamedArray, cache: Cache, **given: object) -> tuple[hax.NamedArray, Cache]:
    return _through(layer, x, _Adding(layer.self_attn, cache), **given)


def _through(
    layer: Any, x: hax.NamedArray, attention: _Filling | _Adding, **given: object
) -> tuple[hax.NamedArray, Cache]:
    """The output of a layer with this attention, and the cache that the attention made."""
    x = dataclasses.replace(layer, self_attn=attention)(x, **given)
    return x, attention.made[0]


def unstacked(model: LmHeadModel) -> LmHeadModel:
    """The same model, with arrays of its own for each layer. `add` would copy them out of the stack in each call."""
    name, layers = _layers_of(model)
    plain = BlockSeq(list(layers.unstacked()), model.config.Layers, ScanCheckpointPolicy._mk(False))
    return _with_layers(model, name, plain)


def _layers_of(model: LmHeadModel) -> tuple[str, BlockFoldable]:
    """What the transformer calls its layers, and these."""
    name = "_layers" if hasattr(model.transformer, "_layers") else "layers"  # OLMo 3's `layers` is a property
    return name, getattr(model.transformer, name)


def _with_layers(model: LmHeadModel, name: str, layers: object) -> LmHeadModel:
    return dataclasses.replace(model, transformer=dataclasses.replace(model.transformer, **{name: layers}))


def _hidden(
    model: LmHeadModel,
    tokens: jax.Array,
    through_all: _ThroughAll,
    mask: AttentionMask | Columns,
    positions: hax.NamedArray | None,
) -> tuple[hax.NamedArray, list[Cache]]:
    """Hidden states of `tokens`, [batch, position], where `through_all` loops over the layers; and the caches."""
    name, there = _layers_of(model)
    layers = _Layers(there, through_all)
    model = _with_layers(model, name, layers)
    hidden = model.activations(hax.named(tokens, (BATCH, POSITION)), attn_mask=mask, pos_ids=positions)
    return hidden, layers.caches


class _Layers(eqx.Module):
    """What a transformer has for its layers. `caches`: of all of them, after `fold`."""

    layers: BlockFoldable
    through_all: _ThroughAll = eqx.field(static=True)
    caches: list[Cache] = eqx.field(static=True, default_factory=list)

    def fold(self, x: hax.NamedArray, *, mask: object, key: None, pos_ids: hax.NamedArray | None) -> hax.NamedArray:
        x, caches = self.through_all(self.layers, x, mask=mask, pos_ids=pos_ids)
        self.caches.extend(caches)
        return x


class _Filling(eqx.Module):
    """The model's attention. It also makes a cache with `columns`."""

    attention: Attention
    columns: int = eqx.field(static=True)
    made: list[Cache] = eqx.field(static=True, default_factory=list)

    def __call__(
        self, x: hax.NamedArray, mask: AttentionMask, *, key: None, pos_ids: hax.NamedArray | None
    ) -> hax.NamedArray:
        # The model computes these again, and the compiler once.
        _, keys, values = self.attention._compute_qkv(x, key=None, pos_ids=pos_ids)
        self.made.append(Cache.of(keys, values, self.columns))
        return self.attention(x=x, mask=mask, pos_ids=pos_ids)


class _Adding(eqx.Module):
    """Attention of one token per sequence to a cache, to which it is added."""

    attention: Attention
    cache: Cache
    made: list[Cache] = eqx.field(static=True, default_factory=list)

    def __call__(self, x: hax.NamedArray, mask: Columns, *, key: None, pos_ids: hax.NamedArray) -> hax.NamedArray:
        config = self.attention.config
        query, keys, values = self.attention._compute_qkv(x, key=None, pos_ids=pos_ids)
        cache = self.cache.with_column(mask.column, keys, values)
        self.made.append(cache)
        found = simple_attention_with_dropout(
            POSITION,
            COLUMN,
            SIZE,
            query.rearrange((..., KV_HEAD, GROUP, POSITION, SIZE)),
            cache.keys,
            cache.values,
            mask.seen(cache.keys.resolve_axis(COLUMN), config.sliding_window),
            inference=True,
            attention_dtype=jnp.float32 if config.upcast_attn else x.dtype,
            scaling_factor=config.scaling_factor,
            logits_soft_cap=config.logits_soft_cap,
        )
        found = found.flatten_axes((KV_HEAD, GROUP), "heads").astype(x.dtype)
        return cast(hax.NamedArray, self.attention.o_proj(found))


def _by_column(array: hax.NamedArray) -> hax.NamedArray:
    return array.rearrange((..., KV_HEAD, POSITION, SIZE)).rename({POSITION: COLUMN})
