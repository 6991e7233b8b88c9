"""The metadata of a GGUF file that describes the model: sizes, positions, origin, sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from marin_sft.export.gguf.architectures import Architecture
from marin_sft.training.models.model_config import Fields, head_size, older_rope
from marin_sft.training.models.rope_scaling import ORIGINAL, attention_factor, longest_of

if TYPE_CHECKING:
    from gguf import GGUFWriter

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Fields of generation_config.json that llama.cpp and Ollama have, too."""


def with_defaults(config: Fields) -> Fields:
    """`config` (see `ModelDirectory.config`) with the family's defaults for the fields that it leaves out."""
    from transformers import AutoConfig

    fields = AutoConfig.for_model(**config).to_dict()
    rope = {name: config[name] for name in ("rope_theta", "rope_scaling", "rope_local_base_freq") if name in config}
    return {"rope_scaling": None, **fields, **older_rope(fields.get("rope_parameters") or {}), **rope}


def context_length(config: Fields) -> int:
    """The most tokens for which llama.cpp computes what transformers does.

    Mistral's first models see a sliding window in all layers, which llama.cpp does not know: up to its length, they see
    everything.
    """
    longest = longest_of(config) or 0
    window = config.get("sliding_window") if config["model_type"] == "mistral" else None
    return min(longest, window) if window else longest


def sampling(generation: Fields) -> Fields:
    """The fields of a generation_config.json that say how its publishers sample. Greedy: a temperature of 0."""
    if generation.get("do_sample") is False:
        return {"temperature": 0.0}
    return {name: generation[name] for name in SAMPLING if generation.get(name) is not None}


def add_model(writer: GGUFWriter, architecture: Architecture, config: Fields) -> None:
    """Describe the model of `config` (see `with_defaults`)."""
    size = head_size(config)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    _add_rope(writer, config, size)
    if architecture.windowed and config.get("sliding_window"):
        _add_windows(writer, config)
    if architecture.capped:
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _add_windows(writer: GGUFWriter, config: Fields) -> None:
    windows = [kind == "sliding_attention" for kind in config.get("layer_types") or ()]
    if any(windows):
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern(windows)
        writer.add_rope_freq_base_swa(config.get("rope_local_base_freq") or config["rope_theta"])


def _add_rope(writer: GGUFWriter, config: Fields, size: int) -> None:
    from gguf import RopeScalingType

    scaling = config.get("rope_scaling") or {}
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config["rope_theta"])
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        factor = scaling["factor"]
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.get(ORIGINAL) or config["max_position_embeddings"])
        # llama.cpp itself multiplies by the default.
        writer.add_rope_scaling_attn_factors(attention_factor(scaling) / attention_factor({"factor": factor}))


def rope_factors(config: Fields) -> Sequence[float] | None:
    """By how much "llama3" slows each frequency; None: another kind of scaling."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") != "llama3":
        return None
    size, factor = head_size(config), scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    frequencies = 1.0 / config["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    turns = scaling[ORIGINAL] * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return [1 / ((1 - share) / factor + share) for share in kept.tolist()]


def add_origin(writer: GGUFWriter, title: str, origin: Fields | None, license: str | None) -> None:
    """origin: of the base model, see `marin_sft.data.download.PROVENANCE`."""
    writer.add_name(title)
    if license is not None:
        writer.add_license(license)
    if origin is None:
        return
    organization, _, name = str(origin["id"]).rpartition("/")
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, name)
    if organization:
        writer.add_base_model_organization(0, organization)
    writer.add_base_model_version(0, str(origin["commit"]))
    writer.add_base_model_repo_url(0, f"https://huggingface.co/{origin['id']}")


def add_sampling(writer: GGUFWriter, generation: Fields) -> None:
    add = {
        "temperature": lambda value: writer.add_sampling_temp(float(value)),
        "top_k": lambda value: writer.add_sampling_top_k(int(value)),
        "top_p": lambda value: writer.add_sampling_top_p(float(value)),
        "min_p": lambda value: writer.add_sampling_min_p(float(value)),
        "repetition_penalty": lambda value: writer.add_sampling_penalty_repeat(float(value)),
    }
    for name, value in sampling(generation).items():
        add[name](value)
