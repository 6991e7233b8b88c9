"""The tokenizer of an export, written so that transformers 4 and 5 give the same ids.

transformers 4 takes tokenizer.json as it is, whatever `tokenizer_class` says. transformers 5 builds the tokenizers of
model families anew, from the vocabulary and the merges alone, and splits text as the class does. So the class is kept
only where that is how tokenizer.json splits text; else it becomes the plain one, for which both take tokenizer.json.
"""

from __future__ import annotations

import json
from typing import Any

from marin_sft.data.tokenizer import PLAIN_CLASS
from marin_sft.training.models.model_directory import ModelDirectory, save_tokenizer, write_json

# Whose class transformers 5 takes for these models, whatever tokenizer_config.json says.
IMPOSED = {"qwen2": "Qwen2Tokenizer"}


def save(directory: str, tokenizer: Any) -> None:
    """Write the tokenizer's files with a class that splits text as tokenizer.json does."""
    save_tokenizer(directory, tokenizer)
    config = dict(ModelDirectory(directory).json("tokenizer_config.json") or {})
    if not splits_as(tokenizer, str(config.get("tokenizer_class"))):
        # What the class would have said by itself.
        config |= {"tokenizer_class": PLAIN_CLASS, "padding_side": tokenizer.padding_side}
    write_json(directory, "tokenizer_config.json", config)


def limits(tokenizer: Any, model_type: str) -> list[str]:
    """What no file of an export can change for this tokenizer: a sentence for each."""
    imposed = IMPOSED.get(model_type)
    if imposed is None or splits_as(tokenizer, imposed):
        return []
    return [
        f"transformers 5 loads a {imposed} for every model of type {model_type}, and that splits text otherwise than "
        "the tokenizer trained with: AutoTokenizer may give other ids there. Load it with "
        "transformers.PreTrainedTokenizerFast.from_pretrained(...), or serve with transformers 4"
    ]


def splits_as(tokenizer: Any, tokenizer_class: str) -> bool:
    """Whether text is split as transformers 5 splits it for that class. False for a class that we do not know."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    known = _splitting().get(tokenizer_class.removesuffix("Fast"))
    return (backend["normalizer"], _without_offsets(backend["pre_tokenizer"])) == known


def _splitting() -> dict[str, tuple[Any, Any]]:
    """(normalizer, pre-tokenizer) as tokenizer.json has them, by class."""
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    words = {"type": "Split", "pattern": {"Regex": PRETOKENIZE_REGEX}, "behavior": "Isolated", "invert": False}
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    spaces = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return {
        "Qwen2Tokenizer": ({"type": "NFC"}, {"type": "Sequence", "pretokenizers": [words, as_bytes]}),
        "GemmaTokenizer": ({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, spaces),
    }


def _without_offsets(part: Any) -> Any:
    """The same without what changes where tokens lie in the text, but not which they are."""
    if isinstance(part, list):
        return [_without_offsets(item) for item in part]
    if isinstance(part, dict):
        return {key: _without_offsets(value) for key, value in part.items() if key != "trim_offsets"}
    return part
