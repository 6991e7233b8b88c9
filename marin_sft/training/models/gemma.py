"""Gemma 1, 2 and 3 as transformers computes them.

Levanter's own configs leave out the head size, the scale of the attention logits (`query_pre_attn_scalar`), the soft
caps of the checkpoint, sliding windows, and the rotary base of Gemma 3's local layers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import haliax as hax
import jax
from haliax.jax_utils import shaped_rng_split
from haliax.nn.scan import BlockSeq, ScanCheckpointPolicy
from levanter.layers.attention import AttentionConfig
from levanter.layers.rotary import DefaultRotaryEmbeddingsConfig
from levanter.models.gemma import (
    Gemma2Config,
    Gemma2DecoderLayer,
    Gemma2LMHeadModel,
    Gemma3Config,
    Gemma3LMHeadModel,
    GemmaConfig,
)

from marin_sft.training.models.model_config import Fields

M = TypeVar("M", Gemma2LMHeadModel, Gemma3LMHeadModel)
SLIDING = "sliding_attention"


@dataclass(frozen=True)
class Gemma(GemmaConfig):
    """Gemma 1."""

    @classmethod
    def from_hf_config(cls, hf_config: SimpleNamespace) -> Gemma:
        return cls(**_fields(GemmaConfig.from_hf_config(hf_config)))

    def attention_config(self) -> AttentionConfig:
        return dataclasses.replace(super().attention_config(), head_dim=self.head_dim)


@dataclass(frozen=True)
class _Alternating(Gemma2Config):
    """Some layers see a window of `sliding_window` tokens, others all tokens. `layer_types` says which, layer by
    layer."""

    layer_types: tuple[str, ...] = ()

    def attention_config(self) -> AttentionConfig:
        assert self.query_pre_attn_scalar is not None
        return dataclasses.replace(
            super().attention_config(),
            head_dim=self.head_dim,
            scaling_factor=self.query_pre_attn_scalar**-0.5,
            logits_soft_cap=self.attn_logit_softcapping,
            sliding_window=self.sliding_window,
        )

    def of_layer(self, layer: int) -> _Alternating:
        """The config of layer number `layer`."""
        return self if self.layer_types[layer] == SLIDING else _replaced(self, sliding_window=None)


@dataclass(frozen=True)
class Gemma2(_Alternating):
    @property
    def model_type(self) -> type[_Gemma2LMHeadModel]:
        return _Gemma2LMHeadModel

    @classmethod
    def from_hf_config(cls, hf_config: SimpleNamespace) -> Gemma2:
        return cls(**{**_fields(Gemma2Config.from_hf_config(hf_config)), **_alternation(hf_config)})


@dataclass(frozen=True)
class Gemma3(_Alternating, Gemma3Config):
    @property
    def model_type(self) -> type[_Gemma3LMHeadModel]:
        return _Gemma3LMHeadModel

    @classmethod
    def from_hf_config(cls, hf_config: SimpleNamespace) -> Gemma3:
        return cls(**{**_fields(Gemma3Config.from_hf_config(hf_config)), **_alternation(hf_config)})

    def of_layer(self, layer: int) -> _Alternating:
        if self.layer_types[layer] != SLIDING:
            return super().of_layer(layer)
        return _replaced(self, rope=DefaultRotaryEmbeddingsConfig(theta=self.rope_local_base_freq))


class _Gemma2LMHeadModel(Gemma2LMHeadModel):
    @classmethod
    def init(cls, Vocab: hax.Axis, config: Gemma2, *, key: jax.Array) -> Gemma2LMHeadModel:
        return _with_own_layers(super().init(Vocab, config, key=key), config, key)


class _Gemma3LMHeadModel(Gemma3LMHeadModel):
    @classmethod
    def init(cls, Vocab: hax.Axis, config: Gemma3, *, key: jax.Array) -> Gemma3LMHeadModel:
        return _with_own_layers(super().init(Vocab, config, key=key), config, key)


def _with_own_layers(model: M, config: _Alternating, key: jax.Array) -> M:
    """`model` with a block of its own for each layer, instead of one block scanned over identical layers."""
    keys = shaped_rng_split(key, config.num_layers)
    blocks = [Gemma2DecoderLayer.init(config.of_layer(i), key=keys[i]) for i in range(config.num_layers)]
    layers = BlockSeq(blocks, config.Layers, ScanCheckpointPolicy._mk(config.gradient_checkpointing))
    return dataclasses.replace(model, transformer=dataclasses.replace(model.transformer, layers=layers))


def _replaced(config: Any, **changes: object) -> Any:
    # Not typed: the fields of Levanter's classes are unknown to the type checker.
    return dataclasses.replace(config, **changes)


def _fields(config: GemmaConfig) -> Fields:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _alternation(hf_config: SimpleNamespace) -> Fields:
    return {
        "layer_types": tuple(hf_config.layer_types),
        "sliding_window": hf_config.sliding_window,
        "query_pre_attn_scalar": hf_config.query_pre_attn_scalar,
        "attn_logit_softcapping": hf_config.attn_logit_softcapping,
        "final_logit_softcapping": hf_config.final_logit_softcapping,
    }
