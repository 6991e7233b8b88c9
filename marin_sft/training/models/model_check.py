"""Whether a downloaded model has the shape that an experiment says it has, and can take its data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from marin_sft.data.files import read_json
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.model_config import Fields, with_defaults
from marin_sft.training.models.model_directory import ModelDirectory, opened
from marin_sft.training.models.vocabulary import other_ids, too_many_tokens

if TYPE_CHECKING:
    import numpy as np
    from levanter.models.lm_model import LmConfig
    from transformers import PreTrainedTokenizerFast

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


def check_model(expected: LlamaConfig, config: Fields, path: str) -> None:
    """Compare `expected` with the fields of the `config.json` at `path` (see `ModelDirectory.config`).

    Raises:
        TrainingError: names every field that differs, with both values.
    """
    known = config.get("model_type") == expected.model_type
    # Fields that the file leaves out have the defaults of its architecture.
    found = dict(with_defaults(config) if known else config)
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
            f"the model config of the experiment ({type(expected).__name__}) differs from that of the base model "
            f"({path}/config.json): {'; '.join(differ)}. Give the model config that belongs to the base model, or "
            "None to use the base model's"
        )


class Limits(NamedTuple):
    """What a model accepts: token ids below `vocab_size`, and documents of at most `max_seq_len` tokens.

    windowed: some layers see only a window of the last tokens. shape: the model's Levanter config.
    """

    vocab_size: int
    shape: LmConfig

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
    """Check the tokenizers that the tokenize steps with the outputs `tokenized` used, see `check_tokenizer`.

    Outputs of older versions do not say what they were made with; `check_tokens` checks their ids later.
    """
    all_stats = [read_json(f"{path}/stats.json") for path in tokenized.values()]
    # The components of a mixture share a vocabulary: compare it once.
    distinct = {stats["vocabulary"]: stats for stats in all_stats if "vocabulary_size" in stats}
    for vocabulary, stats in distinct.items():
        sample = stats.get("vocabulary_sample", {})
        check_tokenizer(stats["vocabulary_size"], vocabulary, sample, base, base.config["vocab_size"])


def check_new_tokens(tokenized: Mapping[str, str], base: ModelDirectory, trained: Collection[int]) -> None:
    """Raise TrainingError if the data have tokens that the base model's tokenizer does not have, and that an adapter
    that trains the tokens `trained` would leave as they are. `tokenized`: outputs of tokenize steps."""
    from marin_sft.data.tokenizer import vocabulary_size

    try:
        own = vocabulary_size(base.tokenizer())
    except ConfigError:  # the base model comes without one
        return
    sizes = [read_json(f"{path}/stats.json").get("vocabulary_size", 0) for path in tokenized.values()]
    new = [id for id in range(own, max(sizes, default=0)) if id not in trained]
    if new:
        raise TrainingError(
            f"the data were tokenized with {len(new)} tokens that the tokenizer of {base.path} does not have, ids "
            f"{new[0]} to {new[-1]}: an adapter would leave their embeddings as they are. Make the base model with "
            "add_tokens of marin_sft.steps, or give their ids as LoraConfig.trainable_tokens"
        )


def check_tokenizer(
    tokens: int, vocabulary: str, sample: Mapping[str, int], base: ModelDirectory, vocab_size: int
) -> None:
    """Raise TrainingError if the tokenizer has more tokens than the model, or ids that differ from the model's own.

    The model's own tokenizer may have more tokens: Gemma 3 was published with an image token beyond its vocabulary.
    tokens: see `vocabulary_size`. vocabulary: see `vocabulary_hash`. sample: see `vocabulary_sample`.
    """
    from marin_sft.data.tokenizer import vocabulary_hash

    try:
        tokenizer: PreTrainedTokenizerFast | None = base.tokenizer()
    except ConfigError:  # the base model comes without one
        tokenizer = None
    if tokenizer is not None and vocabulary == vocabulary_hash(tokenizer):
        return
    wrong = too_many_tokens(tokens, vocab_size, base.path)
    if wrong is None and tokenizer is not None:
        wrong = other_ids(sample, tokenizer.get_vocab(), base.path)
    if wrong is not None:
        raise TrainingError(wrong)


def check_tokens(tokens: np.ndarray, length: int, limits: Limits) -> None:
    """Raise TrainingError unless the model knows all ids in `tokens` and accepts documents of `length` tokens."""
    if length > limits.max_seq_len:
        raise TrainingError(
            f"got rows of {length} tokens, expected at most {limits.max_seq_len}, the model's "
            "max_position_embeddings (seq_len of mixture(...), max_length of a trainer), or another base model"
        )
    largest = int(tokens.max(initial=0))
    if largest >= limits.vocab_size:
        raise TrainingError(
            f"got token id {largest}, expected ids below {limits.vocab_size}, the model's vocabulary size: "
            "the data were tokenized with another model's tokenizer, or tokens were added to the tokenizer later; "
            "in that case resize the model's embeddings: add_tokens of marin_sft.steps adds tokens to both"
        )
