"""Which models can be trained, by their config.json. Loads nothing heavy, so that planning can check too."""

from __future__ import annotations

import os

from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.models.model_config import Fields
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.rope_scaling import check_positions, longest_of
from marin_sft.training.models.stored_tensors import check_whole

# model_type of config.json -> class of the Levanter config
FAMILIES = {
    "llama": "levanter.models.llama:LlamaConfig",
    "mistral": "marin_sft.training.models.architectures:Mistral",
    "qwen2": "levanter.models.qwen:QwenConfig",
    "qwen3": "levanter.models.qwen:Qwen3Config",
    "gemma": "marin_sft.training.models.gemma:Gemma",
    "gemma2": "marin_sft.training.models.gemma:Gemma2",
    "gemma3_text": "marin_sft.training.models.gemma:Gemma3",
    "olmo2": "levanter.models.olmo:Olmo2Config",
    "olmo3": "levanter.models.olmo3:Olmo3Config",
}
# Fields that Levanter ignores, or computes differently from transformers, each with the only value that we accept.
ONLY = {
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,  # Qwen's, in the upper layers
    "use_bidirectional_attention": False,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}


def check_family(config: Fields) -> None:
    """Check the fields of a `config.json` (see `ModelDirectory.config`).

    Raises:
        TrainingError: training would not compute what transformers does.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise TrainingError(f"config.json: model_type {model_type!r}: expected one of {', '.join(FAMILIES)}")
    for field, only in ONLY.items():
        if config.get(field, only) not in (only, None):
            raise TrainingError(
                f"config.json: {field} = {config[field]!r}: expected {only!r}: any other value would be computed "
                "differently from transformers; use another base model"
            )
    check_positions(config)
    if model_type == "gemma3_text" and config.get("attn_logit_softcapping") is not None:
        cap = config["attn_logit_softcapping"]
        raise TrainingError(f"config.json: attn_logit_softcapping = {cap}: transformers does not read it for Gemma 3")
    theta, local = config.get("rope_theta"), config.get("rope_local_base_freq")
    if model_type != "gemma3_text" and local not in (None, theta):
        raise TrainingError(f"config.json: rope_theta {local} for sliding layers and {theta} for others: expected one")


def check_directory(path: str, seq_len: int | None = None, rope_scaling: Fields | None = None) -> None:
    """Check a local model while planning: its config.json, and that its weights are there. `seq_len`: tokens per row.
    `rope_scaling`: see `RopeSettings`.

    Raises:
        ConfigError: training would refuse the model.
    """
    try:
        model = ModelDirectory(path, rope_scaling)
        config = model.config
        check_family(config)
        for name in model.weight_files():
            check_whole(os.path.join(path, name))
    except TrainingError as error:
        raise ConfigError(f"model {path}: {error}") from error
    longest = longest_of(config)
    if seq_len is not None and longest is not None and seq_len > longest:
        raise ConfigError(
            f"model {path}: max_position_embeddings = {longest} of its config.json, but the mixture has rows of "
            f"{seq_len} tokens; expected at most {longest} (seq_len of mixture(...), max_length of a trainer), "
            "rope_scaling in the training, or another base model"
        )
