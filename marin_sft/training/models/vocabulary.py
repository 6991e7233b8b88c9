"""Whether a model can be trained on the ids of a tokenizer. Light: of local files, planning looks too."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.models.model_directory import ModelDirectory

_RENAMED = 0.02  # the share of a tokenizer's tokens that may have another name than in the model's own
_FILE = "tokenizer.json"


def too_many_tokens(tokens: int, vocab_size: int, base_model: str) -> str | None:
    """What is wrong with a tokenizer of `tokens` tokens; None: nothing."""
    if tokens <= vocab_size:
        return None
    return (
        f"the tokenizer has {tokens} tokens, expected at most vocab_size = {vocab_size} of the model "
        f"({base_model}/config.json): take the model's own tokenizer; or, if tokens were added to it, resize the "
        "model's embeddings: add_tokens of marin_sft.steps adds tokens to both"
    )


def other_ids(sample: Mapping[str, int], own: Mapping[str, int], base_model: str) -> str | None:
    """What is wrong with a tokenizer of the ids `sample`, where the model's own has the ids `own`; None: nothing."""
    wrong = [token for token, id in sample.items() if own.get(token) != id]
    if len(wrong) <= _RENAMED * len(sample):
        return None
    first = wrong[0]
    return (
        f"the data were tokenized with another tokenizer than the base model's ({base_model}): of {len(sample)} tokens "
        f"looked at, {len(wrong)} have other ids there, {first!r} {own.get(first, 'none')} and not {sample[first]}. "
        "Tokenize with the base model's tokenizer, or one made from it by adding tokens"
    )


def check_local_tokenizer(tokenizer: str, base_model: str) -> None:
    """Compare two directories of this machine, as far as their tokenizer.json and config.json tell.

    Raises:
        ConfigError: the model cannot be trained on this tokenizer's ids.
    """
    found, own = _read(tokenizer), _read(base_model)
    if found is None or found == own:
        return
    try:
        size = ModelDirectory(base_model).config.get("vocab_size")
    except TrainingError:  # told elsewhere
        return
    wrong = too_many_tokens(found.size, size, base_model) if isinstance(size, int) else None
    if wrong is None and own is not None:
        wrong = other_ids(found.tokens, {**own.tokens, **own.added}, base_model)
    if wrong is not None:
        raise ConfigError(f"tokenizer {tokenizer}: {wrong}")


def tokenizer_size(directory: str) -> int | None:
    """The number of ids of the tokenizer in a directory of this machine. None: its tokenizer.json does not tell."""
    found = _read(directory)
    return None if found is None else found.size


class _Vocabulary(NamedTuple):
    """Ids by token, those of the added ones by themselves: people give reserved ones other names."""

    tokens: dict[str, int]
    added: dict[str, int]

    @property
    def size(self) -> int:
        return 1 + max((*self.tokens.values(), *self.added.values()), default=-1)


def _read(directory: str) -> _Vocabulary | None:
    """None where there is no tokenizer.json, or one that is not understood here."""
    file = Path(directory, _FILE)
    try:
        return _parsed(str(file.resolve()), os.stat(file).st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@functools.lru_cache(maxsize=4)
def _parsed(file: str, _: int) -> _Vocabulary:
    stored = json.loads(Path(file).read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in stored.get("added_tokens") or ()}
    listed = stored["model"]["vocab"]  # of Unigram a list of (token, score)
    tokens = dict(listed) if isinstance(listed, dict) else {token: id for id, (token, _) in enumerate(listed)}
    return _Vocabulary({token: id for token, id in tokens.items() if token not in added}, added)
