"""Whether a downloaded model has the shape that an experiment says it has, and can take its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from marin_sft.data.files import read_json
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.levanter_bridge import with_defaults
from marin_sft.training.models.model_directory import ModelDirectory, opened

if TYPE_CHECKING:
    import numpy as np

# From our names to those of config.json.
NAMES = {
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_size": "head_dim",
    "rope_theta": "rope_theta",
    "layer_norm_epsilon": "rms_norm_eps",
    "tie_word_embeddings": "tie_word_embeddings",
    "model_type": "model_type",
}


def check_model(expected: LlamaConfig, config: Mapping[str, Any], path: str) -> None:
    """Compare with the fields of the `config.json` at `path` (see `ModelDirectory.config`).

    Raises:
        TrainingError: naming every field that differs, and both its values.
    """
    known = config.get("model_type") == expected.model_type
    # Fields that the file leaves out have the defaults of its architecture.
    found = with_defaults(config) if known else dict(config)
    if known and found.get("head_dim") is None:  # Qwen 2 has no such field
        found["head_dim"] = found["hidden_size"] // found["num_attention_heads"]
    differ = [
        f"{ours} = {getattr(expected, ours)!r}, but {theirs} = {found.get(theirs)!r}"
        for ours, theirs in NAMES.items()
        if getattr(expected, ours) != found.get(theirs)
    ]
    if found.get("max_position_embeddings", 0) < expected.max_seq_len:
        differ.append(
            f"max_seq_len = {expected.max_seq_len}, but max_position_embeddings = "
            f"{found.get('max_position_embeddings')!r}"
        )
    if differ:
        raise TrainingError(
            f"the model config of the experiment ({type(expected).__name__}) is not that of the base model "
            f"({path}/config.json): {'; '.join(differ)}. Give the model config that belongs to the base model, or "
            "None to take the base model's"
        )


class Limits(NamedTuple):
    """What a model can take: token ids below `vocab_size`, documents of at most `max_seq_len` tokens; `windowed`:
    some of its layers see only the last tokens before each. `shape`: Levanter's config of it."""

    vocab_size: int
    shape: Any

    @property
    def max_seq_len(self) -> int:
        return int(self.shape.max_seq_len)

    @property
    def windowed(self) -> bool:
        return getattr(self.shape, "sliding_window", None) is not None


def limits_of(model: ModelDirectory | str) -> Limits:
    """The limits of the model in a Hugging Face directory."""
    from marin_sft.training.models.architectures import levanter_config

    config = opened(model).config
    return Limits(config["vocab_size"], levanter_config(config))


def check_tokenizers(tokenized: Mapping[str, str], base: ModelDirectory) -> None:
    """Check, as `check_tokenizer`, those that the outputs `tokenized` of tokenize steps were made with.

    Outputs of older versions do not say how many tokens their tokenizer has, and are left to `check_tokens`.
    """
    for path in tokenized.values():
        stats = read_json(f"{path}/stats.json")
        if "vocabulary_size" in stats:
            check_tokenizer(stats["vocabulary_size"], stats["vocabulary"], base, base.config["vocab_size"])


def check_tokenizer(tokens: int, vocabulary: str, base: ModelDirectory, vocab_size: int) -> None:
    """Raise TrainingError for a tokenizer with more tokens than the model, unless it is the base model's own: Gemma 3
    was published with an image token beyond its vocabulary.

    tokens: see `vocabulary_size`. vocabulary: see `vocabulary_hash`.
    """
    if tokens <= vocab_size:
        return
    from marin_sft.data.tokenizer import vocabulary_hash

    try:
        own = vocabulary_hash(base.tokenizer())
    except ConfigError:  # the base model has none
        own = None
    if vocabulary != own:
        raise TrainingError(
            f"the tokenizer has {tokens} tokens, expected at most vocab_size = {vocab_size} of the model "
            f"({base.path}/config.json): take the model's own tokenizer; or, if tokens were added to it, resize the "
            "model's embeddings with transformers, and train the result"
        )


def check_tokens(tokens: np.ndarray, length: int, limits: Limits) -> None:
    """Raise TrainingError unless the model knows all ids of `tokens`, and documents of `length` tokens."""
    if length > limits.max_seq_len:
        raise TrainingError(
            f"got rows of {length} tokens, expected at most {limits.max_seq_len}, the model's "
            "max_position_embeddings: mixture(..., seq_len=...) packs shorter ones; or take another base model"
        )
    largest = int(tokens.max(initial=0))
    if largest >= limits.vocab_size:
        raise TrainingError(
            f"got token id {largest}, expected ids below {limits.vocab_size}, the model's vocabulary: "
            "the data were tokenized with another model's tokenizer, or with one that was given tokens after the model "
            "was made; in that case resize the model's embeddings with transformers, and train the result"
        )
