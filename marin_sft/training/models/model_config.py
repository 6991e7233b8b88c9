"""The fields of a config.json, by the same names whichever version of transformers wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marin_sft.errors import TrainingError


def with_older_fields(stored: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The fields `stored` at `path`, with `rope_theta` and `rope_scaling` at the top level whoever wrote them.

    transformers 5 writes `rope_parameters` (for models with sliding windows, one for each type of layer); readers of
    the older fields would take their default theta, silently. A `rope_scaling` has its kind as `rope_type`. The "gelu"
    of a Gemma 1 is a slip of its publishers for the approximation, which transformers 5 takes, and 4 does not.

    Raises:
        TrainingError: both forms are there and differ.
    """
    config = dict(stored)
    if config.get("quantization_config", 0) is None:  # transformers takes the field for one that is set
        del config["quantization_config"]
    if config.get("model_type") == "gemma" and config.get("hidden_act") == "gelu":
        config["hidden_act"] = "gelu_pytorch_tanh"
    if "rope_scaling" in config:
        config["rope_scaling"] = _scaling(config["rope_scaling"])
    for name, value in older_rope(config.get("rope_parameters") or {}).items():
        if config.get(name) not in (None, value):
            raise TrainingError(
                f"{path}: {name} = {config[name]!r}, but rope_parameters say {value!r}: transformers "
                "4 reads the one and transformers 5 the other; leave the wrong one out"
            )
        config[name] = value
    return config


def older_rope(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The older fields that say what `rope_parameters` does, but for those that it leaves out."""
    found: dict[str, Any] = {}
    if "full_attention" in parameters:
        found["rope_local_base_freq"] = (parameters.get("sliding_attention") or {}).get("rope_theta")
        parameters = parameters["full_attention"]
    found |= {name: parameters.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    found["rope_scaling"] = _scaling({name: value for name, value in parameters.items() if name not in found})
    return {name: value for name, value in found.items() if value is not None}


def _scaling(rope: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Older configs call the kind `type`; a kind that scales nothing is none."""
    factors = {name: value for name, value in (rope or {}).items() if name not in ("rope_type", "type")}
    kind = (rope or {}).get("rope_type") or (rope or {}).get("type") or (None if factors else "default")
    return None if kind == "default" else {"rope_type": kind, **factors}


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The same config for weights of `dtype`, e.g. "bfloat16", under the name that both old and new readers know."""
    return {**{key: value for key, value in config.items() if key != "dtype"}, "torch_dtype": dtype}
