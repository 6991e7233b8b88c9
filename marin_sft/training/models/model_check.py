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

_RENAMED = 0.02  # the share of a tokenizer's tokens that may have another name than in the model's own
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

    Outputs of older versions do not say what is compared, and are left to `check_tokens`.
    """
    all_stats = [read_json(f"{path}/stats.json") for path in tokenized.values()]
    # The components of a mixture have the same vocabulary: it is compared once.
    distinct = {stats["vocabulary"]: stats for stats in all_stats if "vocabulary_size" in stats}
    for vocabulary, stats in distinct.items():
        sample = stats.get("vocabulary_sample", {})
        check_tokenizer(stats["vocabulary_size"], vocabulary, sample, base, base.config["vocab_size"])


def check_tokenizer(
    tokens: int, vocabulary: str, sample: Mapping[str, int], base: ModelDirectory, vocab_size: int
) -> None:
    """Raise TrainingError for a tokenizer with more tokens than the model, or with other ids than the model's own.

    The model's own may have more tokens: Gemma 3 was published with an image token beyond its vocabulary.
    tokens: see `vocabulary_size`. vocabulary: see `vocabulary_hash`. sample: see `vocabulary_sample`.
    """
    from marin_sft.data.tokenizer import vocabulary_hash

    try:
        tokenizer: Any = base.tokenizer()
    except ConfigError:  # the base model has none
        tokenizer = None
    if tokenizer is not None and vocabulary == vocabulary_hash(tokenizer):
        return
    if tokens > vocab_size:
        raise TrainingError(
            f"the tokenizer has {tokens} tokens, expected at most vocab_size = {vocab_size} of the model "
            f"({base.path}/config.json): take the model's own tokenizer; or, if tokens were added to it, resize the "
            "model's embeddings with transformers, and train the result"
        )
    if tokenizer is not None:
        _check_ids(sample, tokenizer.get_vocab(), base.path)


def _check_ids(sample: Mapping[str, int], own: Mapping[str, int], base_model: str) -> None:
    wrong = [token for token, id in sample.items() if own.get(token) != id]
    if len(wrong) <= _RENAMED * len(sample):
        return
    first = wrong[0]
    raise TrainingError(
        f"the data were tokenized with another tokenizer than the base model's ({base_model}): of {len(sample)} tokens "
        f"looked at, {len(wrong)} have other ids there, {first!r} {own.get(first, 'none')} and not {sample[first]}. "
        "Tokenize with the base model's tokenizer, or one made from it by adding tokens"
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
