"""A model that is named, not loaded: what EasyDeL's `from_pretrained` gives here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from marin_sft.errors import ConfigError
from marin_sft.nearest import nearest_text
from marin_sft.trainers.configs import dtype_name
from marin_sft.trainers.enums import EasyDeLBaseConfigDict, EasyDeLQuantizationMethods, PartitionAxis
from marin_sft.trainers.settings import NO_EFFECT, check_possible

_WHERE = "from_pretrained"
_ALWAYS = ("auto_shard_model", "verbose", "low_mem_usage")
_QUANTISED = (
    "there is no quantised training; bfloat16 weights with LoRA need little memory: param_dtype=jnp.bfloat16 and "
    "use_lora=True"
)


@dataclass(frozen=True)
class ModelHandle:
    """A model by its hub id or directory, with how training is to compute it. The weights come in a step."""

    source: str
    revision: str | None = None
    precision: str = "fp32"
    mesh: Sequence[int] | None = None
    attention: str | None = None
    gradient_checkpointing: object = None
    attention_dtype: str | None = None
    softmax_dtype: str | None = None
    longest: int | None = None
    matmul_precision: str | None = None
    ignored: tuple[str, ...] = field(default=(), compare=False)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"{name}: the model is not in this process, where it is only named: {self.source}. Training loads it in a "
            "step; what it trained lies in output_dir, for transformers to load"
        )


class AutoEasyDeLModelForCausalLM:
    """EasyDeL's way to a model."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *,
        revision: str | None = None,
        dtype: object = None,
        param_dtype: object = None,
        precision: object = None,
        sharding_axis_dims: Sequence[int] | None = None,
        config_kwargs: Mapping[str, object] | None = None,
        partition_axis: PartitionAxis | None = None,
        quantization_method: EasyDeLQuantizationMethods | str | None = None,
        **others: object,
    ) -> ModelHandle:
        """Name a model. Downloads and loads nothing.

        dtype, param_dtype: types of the passes and of the weights; float32 where left out.
        precision: of matrix products, a member of `jax.lax.Precision`.
        sharding_axis_dims: (dp, fsdp, ep, tp, sp), or (dp, fsdp, tp, sp).
        config_kwargs: an `EasyDeLBaseConfigDict`.

        Raises:
            ConfigError: an argument that is unknown or cannot be had.
        """
        for name, value in others.items():
            if name.startswith("quantiz") and value in (None, "none"):
                continue
            if name.startswith(("quantiz", "load_in_")):
                raise ConfigError(f"{_WHERE}: {name} = {value!r} is not supported: {_QUANTISED}")
            check_possible(name, value, _WHERE)
            if name not in _ALWAYS:
                known = [*_ALWAYS, "dtype", "param_dtype", "precision", "sharding_axis_dims", "config_kwargs"]
                raise ConfigError(f"{_WHERE}: unknown argument {name!r}{nearest_text(name, known)}")
        if quantization_method not in (None, EasyDeLQuantizationMethods.NONE):
            raise ConfigError(f"{_WHERE}: quantization_method = {quantization_method!r} is not supported: {_QUANTISED}")
        options = EasyDeLBaseConfigDict(**(config_kwargs or {}))
        if options.get("kv_cache_quantization_method") not in (None, EasyDeLQuantizationMethods.NONE):
            raise ConfigError("kv_cache_quantization_method: there is no cache in training; leave it out")
        longest = [
            value
            for name in ("freq_max_position_embeddings", "mask_max_position_embeddings")
            if isinstance(value := options.get(name), int)
        ]
        return ModelHandle(
            source=str(pretrained_model_name_or_path),
            revision=revision,
            precision=precision_of(dtype, param_dtype),
            mesh=None if sharding_axis_dims is None else tuple(sharding_axis_dims),
            attention=None if (attention := options.get("attn_mechanism")) is None else str(_value(attention)),
            gradient_checkpointing=_value(options.get("gradient_checkpointing")),
            attention_dtype=_dtype(options, "attn_dtype"),
            softmax_dtype=_dtype(options, "attn_softmax_dtype"),
            longest=min(longest, default=None),
            matmul_precision=_matmul_precision(precision),
            ignored=tuple(name for name in (*others, *options) if name in NO_EFFECT),
        )


def precision_of(dtype: object, param_dtype: object) -> str:
    """Our name for EasyDeL's two types: of the passes, and of weights and optimizer."""
    passes = "float32" if dtype is None else dtype_name(dtype, "dtype")
    weights = "float32" if param_dtype is None else dtype_name(param_dtype, "param_dtype")
    if (passes, weights) == ("float32", "bfloat16"):
        return "p=bf16,c=f32"
    return {"float32": "fp32", "bfloat16": "bf16"}[passes] if weights == "float32" else "bf16_full"


def _dtype(options: Mapping[str, object], name: str) -> str | None:
    return None if options.get(name) is None else dtype_name(options[name], name)


def _value(member: object) -> object:
    return getattr(member, "value", member)


def _matmul_precision(precision: object) -> str | None:
    """Raises ConfigError for what is no precision of JAX's matrix products."""
    if precision is None or str(precision).rpartition(".")[2].lower() == "default":
        return None
    raise ConfigError(
        f"{_WHERE}: precision = {precision!r} is not supported: matrix products are computed as the device does them; "
        "expected jax.lax.Precision.DEFAULT, and dtype=jnp.float32 for more digits"
    )
