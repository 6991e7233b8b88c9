"""The tokenizer of an export, written so that transformers 4 and 5 give the same ids.

transformers 4 uses tokenizer.json, and ignores `tokenizer_class`. transformers 5 rebuilds the tokenizers of model
families from their vocabulary and merges only, and splits text as the class does. So the class is kept only if it
splits text as tokenizer.json does. Otherwise it becomes the plain one, for which both use tokenizer.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from marin_sft.data.tokenizer import PLAIN_CLASS
from marin_sft.training.models.model_directory import SENTENCEPIECE, ModelDirectory, save_tokenizer, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# The class that transformers 5 uses for these models, even if tokenizer_config.json names another.
IMPOSED = {"qwen2": "Qwen2Tokenizer"}


def save(directory: str, tokenizer: PreTrainedTokenizerFast, sentencepiece: bytes | None = None) -> None:
    """Write the tokenizer's files with a class that splits text as tokenizer.json does.

    sentencepiece: the content of `SENTENCEPIECE`, if the tokenizer has that file. transformers alone would lose it if
    the tokenizer came from an object store.
    """
    save_tokenizer(directory, tokenizer)
    if sentencepiece is not None:
        Path(directory, SENTENCEPIECE).write_bytes(sentencepiece)
    config = dict(ModelDirectory(directory).json("tokenizer_config.json") or {})
    if not splits_as(tokenizer, str(config.get("tokenizer_class"))):
        # The padding side that the class would have set.
        config |= {"tokenizer_class": PLAIN_CLASS, "padding_side": tokenizer.padding_side}
    write_json(directory, "tokenizer_config.json", config)


def limits(tokenizer: PreTrainedTokenizerFast, model_type: str) -> list[str]:
    """Problems with this tokenizer that no file of an export can solve, one sentence each."""
    imposed = IMPOSED.get(model_type)
    if imposed is None or splits_as(tokenizer, imposed):
        return []
    return [
        f"transformers 5 loads a {imposed} for every model of type {model_type}, which splits text differently from "
        "the tokenizer of training: AutoTokenizer may give other ids there. Load it with "
        "transformers.PreTrainedTokenizerFast.from_pretrained(...), or serve with transformers 4"
    ]


def splits_as(tokenizer: PreTrainedTokenizerFast, tokenizer_class: str) -> bool:
    """Whether `tokenizer` splits text as transformers 5 does for that class. False for an unknown class."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    known = _splitting().get(tokenizer_class.removesuffix("Fast"))
    return (backend["normalizer"], _without_offsets(backend["pre_tokenizer"])) == known


def _splitting() -> dict[str, tuple[object, object]]:
    """(normalizer, pre-tokenizer) as in tokenizer.json, by class."""
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    words = {"type": "Split", "pattern": {"Regex": PRETOKENIZE_REGEX}, "behavior": "Isolated", "invert": False}
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    spaces = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return {
        "Qwen2Tokenizer": ({"type": "NFC"}, {"type": "Sequence", "pretokenizers": [words, as_bytes]}),
        "GemmaTokenizer": ({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, spaces),
    }


def _without_offsets(part: object) -> object:
    """The same without fields that change only the offsets of tokens in the text."""
    if isinstance(part, list):
        return [_without_offsets(item) for item in part]
    if isinstance(part, dict):
        return {key: _without_offsets(value) for key, value in part.items() if key != "trim_offsets"}
    return part
