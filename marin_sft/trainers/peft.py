"""PEFT's description of an adapter, in our settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError
from marin_sft.training import lora_config

DEFAULT_TARGETS = ("q_proj", "v_proj")
"""What PEFT adapts where nothing is said, in all families that are trained here."""

# Of PEFT's fields: what each must be, because nothing else can be had.
_FIXED: Mapping[str, tuple[object, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "modules_to_save": (None, [], ()),
    "layers_to_transform": (None,),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "loftq_config": ({}, None),
    "target_parameters": (None,),
}


@dataclass(frozen=True, kw_only=True)
class PeftLoraConfig(metaclass=NamedFields):
    """The fields of PEFT's `LoraConfig` that are supported. See `marin_sft.training.lora_config.LoraConfig`."""

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: Sequence[str] | str | None = None
    exclude_modules: Sequence[str] | str | None = None
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    bias: str = "none"
    task_type: str | None = None
    modules_to_save: Sequence[str] | None = None
    trainable_token_indices: Sequence[int] | Mapping[str, Sequence[int]] | None = None


def lora_of(config: object) -> lora_config.LoraConfig:
    """Our settings of an adapter: of PEFT's object, or of the class above.

    Raises:
        ConfigError: another kind of adapter, or a field that cannot be had.
    """
    if isinstance(config, lora_config.LoraConfig):
        return config
    if not hasattr(config, "r") or not hasattr(config, "lora_alpha"):
        raise ConfigError(f"peft_config: got a {type(config).__name__}; expected a LoraConfig, as PEFT's or ours")
    for name, possible in _FIXED.items():
        value = getattr(config, name, possible[0])
        if value not in possible:
            raise ConfigError(f"peft_config.{name} = {value!r} is not supported: expected {possible[0]!r}")
    targets = getattr(config, "target_modules", None)
    excluded = getattr(config, "exclude_modules", None)
    return lora_config.LoraConfig(
        r=config.r,
        alpha=float(config.lora_alpha),
        dropout=getattr(config, "lora_dropout", 0.0),
        target_modules=DEFAULT_TARGETS if targets is None else _names(targets),
        exclude_modules=None if excluded is None else _names(excluded),
        use_rslora=getattr(config, "use_rslora", False),
        use_dora=getattr(config, "use_dora", False),
        init_lora_weights=getattr(config, "init_lora_weights", True),
        trainable_tokens=_token_ids(getattr(config, "trainable_token_indices", None)),
    )


def _token_ids(listed: Sequence[int] | Mapping[str, Sequence[int]] | None) -> tuple[int, ...] | None:
    """PEFT lists them for the embedding, or by matrix. Here, embedding and head have the same."""
    if not listed:
        return None
    given = {tuple(sorted(ids)) for ids in (listed.values() if isinstance(listed, Mapping) else [listed])}
    if len(given) > 1:
        raise ConfigError(
            f"peft_config.trainable_token_indices = {listed!r}: expected the same ids for the embedding and the head"
        )
    return given.pop()


def _names(modules: Sequence[str] | str) -> tuple[str, ...] | str:
    """PEFT holds them as a set."""
    return modules if isinstance(modules, str) else tuple(sorted(modules))
