"""Rotary positions with YaRN (arXiv:2309.00071), as transformers computes them.

Levanter's YaRN knows neither `attention_factor`, `mscale_all_dim` nor `truncate`, has a default of its own for
`original_max_position_embeddings`, takes `mscale` by itself, and rounds twice in bfloat16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import equinox as eqx
import haliax as hax
import numpy as np
from haliax import Axis, NamedArray
from levanter.layers.rotary import RotaryEmbeddings

from marin_sft.training.models.model_config import Fields
from marin_sft.training.models.rope_scaling import attention_factor


@dataclass(frozen=True)
class Yarn:
    """A Levanter `RotaryEmbeddingsConfig`, whose base class would ask for a way back to a config.json.

    theta: the base of the frequencies. factor: how much slower the slow ones become. attention_factor: scales queries
    and keys. beta_fast, beta_slow: with more turns in `original_max_position_embeddings` tokens than the former, a
    frequency stays as it is; with fewer than the latter, it is slowed down fully. truncate: see `_bounds`.
    """

    theta: float
    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float
    beta_slow: float
    truncate: bool

    @classmethod
    def of(cls, theta: float, scaling: Fields, max_position_embeddings: int) -> Yarn:
        """The fields `scaling` of a config.json (`rope_scaling`), with the defaults of transformers."""
        return cls(
            theta=theta,
            factor=scaling["factor"],
            original_max_position_embeddings=scaling.get("original_max_position_embeddings") or max_position_embeddings,
            attention_factor=attention_factor(scaling),
            beta_fast=scaling.get("beta_fast") or 32,
            beta_slow=scaling.get("beta_slow") or 1,
            truncate=scaling.get("truncate", True),
        )

    def build(self, HeadSize: Axis) -> YarnEmbeddings:
        return YarnEmbeddings(HeadSize, self)

    def frequencies(self, size: int) -> np.ndarray:
        """float32[size / 2], in radians per position, for heads of `size` numbers."""
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        wavelengths = (self.theta ** exponents.astype(np.float64)).astype(np.float32)  # over 2 pi
        low, high = self._bounds(size)
        slow = np.clip((np.arange(size // 2, dtype=np.float32) - low) / (high - low), 0, 1)
        return 1 / (self.factor * wavelengths) * slow + 1 / wavelengths * (1 - slow)

    def _bounds(self, size: int) -> tuple[float, float]:
        """Between which two frequencies, by number, the change sets in. truncate: both are whole numbers."""
        lengths = (self.original_max_position_embeddings / turns for turns in (self.beta_fast, self.beta_slow))
        low, high = (size * math.log(each / (2 * math.pi)) / (2 * math.log(self.theta)) for each in lengths)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        return low, high + 0.001 if low == high else high


class YarnEmbeddings(RotaryEmbeddings):
    """Rotates vectors by their positions."""

    HeadSize: Axis = eqx.field(static=True)
    config: Yarn = eqx.field(static=True)

    def __call__(self, q: NamedArray, position_ids: NamedArray) -> NamedArray:
        half = self.HeadSize.size // 2
        frequencies = hax.named(self.config.frequencies(self.HeadSize.size), self.HeadSize.resize(half))
        angles = position_ids * frequencies.broadcast_axis(position_ids.axes)
        cos, sin = (
            (function(angles) * self.config.attention_factor).astype(q.dtype) for function in (hax.cos, hax.sin)
        )
        first, second = q[self.HeadSize, :half], q[self.HeadSize, half:]
        return hax.concatenate(self.HeadSize, (first * cos - second * sin, second * cos + first * sin))
