"""A Levanter model config -> our shape. Loads no Levanter: it goes by the name of the class and its fields."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from marin_sft.errors import ConfigError
from marin_sft.training.models import LlamaConfig, Qwen3Config

if TYPE_CHECKING:
    from levanter.models.lm_model import LmConfig

_OURS: dict[str, type[LlamaConfig]] = {"LlamaConfig": LlamaConfig, "Qwen3Config": Qwen3Config}
_CARRIED = {field.name for field in dataclasses.fields(LlamaConfig)}
# Not part of the shape: how a model is computed, or where Levanter would find its parts.
_NOT_SHAPE = {
    "attn_backend", "flash_attention_block_size", "gradient_checkpointing", "reference_checkpoint", "rope",
    "scan_layers", "tokenizer", "upcast_attn",
}  # fmt: skip


def from_levanter(given: LlamaConfig | LmConfig, *, scaled_rope: bool = False) -> LlamaConfig:
    """`given` as one of our shapes: ours are returned, Levanter's are converted.

    scaled_rope: accept scaled rotary positions, and carry over only their base frequency. That is right for a shape
    that is compared with a base model, whose config.json has the scaling.

    Raises:
        ConfigError: neither ours nor Levanter's, or a field that ours cannot express.
    """
    if isinstance(given, LlamaConfig):
        return given
    name = type(given).__name__
    if name not in _OURS or not hasattr(given, "rope"):
        raise ConfigError(
            f"model_config={given!r}; expected one of {', '.join(_OURS)}, from marin_sft.recipes or Levanter, "
            "or None to take the base model's"
        )
    fields = dataclasses.fields(given)
    unknown = {
        field.name: getattr(given, field.name)
        for field in fields
        if field.name not in _CARRIED | _NOT_SHAPE and getattr(given, field.name) != _default(field)
    }
    if unknown:
        raise ConfigError(f"model_config={given!r}: {unknown} cannot be carried over to our {name}")
    plain = type(given.rope).__name__ == "DefaultRotaryEmbeddingsConfig" and given.rope.factor == 1
    if not plain and not scaled_rope:
        raise ConfigError(
            f"model_config={given!r}: scaled rotary positions cannot be carried over to our {name}; expected a base "
            "model, whose config.json has them"
        )
    shape = {field.name: getattr(given, field.name) for field in fields if field.name in _CARRIED}
    return _OURS[name](**shape, rope_theta=given.rope.theta)


def _default(field: dataclasses.Field[object]) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
