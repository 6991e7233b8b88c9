"""Which tokens an adapter trains, in addition to the layers that it adapts."""

from __future__ import annotations

from collections.abc import Sequence

from marin_sft.errors import TrainingError
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.new_tokens_config import NEW_TOKENS
from marin_sft.training.models.peft_directory import stored_token_ids
from marin_sft.training.models.reinit import token_ids


def trained_ids(config: LoraConfig, model: ModelDirectory, reinitialised: Sequence[int]) -> tuple[int, ...]:
    """The ids, sorted, of the tokens of `model` whose embeddings the adapter trains: see
    `LoraConfig.trainable_tokens`. `reinitialised`: the ids of `reinit_tokens`.

    Raises:
        TrainingError: the tokenizer has no such token, or the model no such id.
    """
    given = config.trainable_tokens
    if given is None:
        given = list((model.json(NEW_TOKENS) or {}).get("tokens", {}))
    named = token_ids(model, [token for token in given if isinstance(token, str)], "LoraConfig.trainable_tokens")
    ids = {*named, *(token for token in given if isinstance(token, int)), *reinitialised}
    if config.adapter_path is not None:
        ids |= stored_token_ids(ModelDirectory(config.adapter_path))
    rows = model.config["vocab_size"]
    wrong = [id for id in sorted(ids) if not 0 <= id < rows]
    if wrong:
        raise TrainingError(f"LoraConfig.trainable_tokens: got id {wrong[0]}, expected ids from 0 to {rows - 1}")
    return tuple(sorted(ids))
