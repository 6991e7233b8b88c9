"""The fields of a config.json, under the same names whichever version of transformers wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from marin_sft.errors import TrainingError

Fields: TypeAlias = Mapping[str, Any]
"""A JSON object by field, as in config.json."""


def with_older_fields(stored: Fields, path: str) -> Fields:
    """The fields `stored` at `path`, with `rope_theta` and `rope_scaling` at the top level.

    transformers 5 writes `rope_parameters` instead (with sliding windows, one for each type of layer). Readers of the
    older fields would silently use their default theta. The kind of a `rope_scaling` is always its `rope_type`. The
    "gelu" of Gemma 1 is its publishers' mistake for the approximation, which transformers 5 corrects and 4 does not.

    Raises:
        TrainingError: both forms are there and differ.
    """
    config = dict(stored)
    if config.get("quantization_config", 0) is None:  # transformers would treat the field as set
        del config["quantization_config"]
    if config.get("model_type") == "gemma" and config.get("hidden_act") == "gelu":
        config["hidden_act"] = "gelu_pytorch_tanh"
    if "rope_scaling" in config:
        config["rope_scaling"] = scaling_of(config["rope_scaling"])
    for name, value in older_rope(config.get("rope_parameters") or {}).items():
        if config.get(name) not in (None, value):
            raise TrainingError(
                f"{path}: {name} = {config[name]!r}, but {value!r} in rope_parameters: transformers 4 reads the "
                "former and transformers 5 the latter; delete the wrong one"
            )
        config[name] = value
    return config


def older_rope(parameters: Fields) -> Fields:
    """`rope_parameters` as the older fields; those that it leaves out are left out."""
    found: dict[str, object] = {}
    if "full_attention" in parameters:
        found["rope_local_base_freq"] = (parameters.get("sliding_attention") or {}).get("rope_theta")
        parameters = parameters["full_attention"]
    found |= {name: parameters.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    found["rope_scaling"] = scaling_of({name: value for name, value in parameters.items() if name not in found})
    return {name: value for name, value in found.items() if value is not None}


def scaling_of(rope: Fields | None) -> Fields | None:
    """Older configs call the kind `type`. None: nothing is scaled.

    Raises:
        TrainingError: `type` and `rope_type` differ.
    """
    kinds = [value for value in map((rope or {}).get, ("type", "rope_type")) if value is not None]
    if len({*kinds}) > 1:
        raise TrainingError(
            f"rope_scaling = {dict(rope or {})!r}: transformers 4 reads the type and others the rope_type; "
            "delete the wrong one"
        )
    factors = {name: value for name, value in (rope or {}).items() if name not in ("rope_type", "type")}
    kind = kinds[0] if kinds else None if factors else "default"
    return None if kind == "default" else {"rope_type": kind, **factors}


def with_defaults(config: Fields) -> Fields:
    """The fields of a `config.json`, with the architecture's defaults for those it leaves out. Published files leave
    out much: those of Gemma 2, that the head is tied and which layers have a window.

    transformers 5 has only `rope_parameters`; Levanter and our own checks read `rope_theta` and `rope_scaling`.
    """
    from transformers import AutoConfig

    fields = AutoConfig.for_model(**config).to_dict()
    return {"rope_scaling": None, **fields, **older_rope(fields.get("rope_parameters") or {})}


def with_dtype(config: Fields, dtype: str) -> Fields:
    """The same config for weights of `dtype`, e.g. "bfloat16", under the name that old and new readers know."""
    return {**{key: value for key, value in config.items() if key != "dtype"}, "torch_dtype": dtype}


def head_size(config: Fields) -> int:
    """Of a head of attention."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
