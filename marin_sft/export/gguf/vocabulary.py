"""The tokens of a tokenizer as llama.cpp keeps them: texts, types, and the merges or scores that put them together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marin_sft.errors import ExportError
from marin_sft.export.gguf import pre_tokenizers
from marin_sft.export.gguf.pre_tokenizers import SPACE
from marin_sft.training.models.model_config import Fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens, as numbered in GGUF files."""

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_NEVER = -1e9  # score of what no merge makes


@dataclass(frozen=True)
class Vocabulary:
    """model: "gpt2" has merges over bytes, "llama" scores as SentencePiece. pre: see `pre_tokenizers`.

    space: for "llama": whether a space is put before a text.
    limits: what llama.cpp does otherwise, one sentence each.
    """

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    space: bool = False
    limits: tuple[str, ...] = ()


def vocabulary_of(tokenizer: PreTrainedTokenizerFast, size: int) -> Vocabulary:
    """`size`: rows of the model's embedding. Ids without a token are unused; tokens without a row are left out.

    Raises:
        ExportError: llama.cpp would give other ids for the same text.
    """
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    model = stored["model"]
    if model["type"] != "BPE":
        raise ExportError(
            f"formats: no GGUF file for a tokenizer of type {model['type']} (tokenizer.json): expected BPE; leave out "
            "'gguf', or train with another tokenizer"
        )
    for field in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(field):
            raise ExportError(
                f"formats: llama.cpp does not have {field} = {model[field]!r} of tokenizer.json; leave out 'gguf'"
            )
    made = _of_pieces(stored, size) if model.get("byte_fallback") else _of_bytes(stored, size)
    beyond = sorted(token for token, i in tokenizer.get_vocab().items() if i >= size)
    trimming = [token["content"] for token in stored["added_tokens"] if token["lstrip"] or token["rstrip"]]
    limits = list(made.limits)
    if beyond:
        limits.append(f"{len(beyond)} tokens without a row in the embedding are left out, such as {beyond[0]!r}")
    if trimming:
        limits.append(
            f"llama.cpp keeps spaces around {len(trimming)} tokens that take them in, such as {trimming[0]!r}"
        )
    return Vocabulary(**{**vars(made), "limits": tuple(limits)})


def _of_bytes(stored: Fields, size: int) -> Vocabulary:
    tokens, types = _texts(stored, size), _types(stored, size)
    limits: tuple[str, ...] = ()
    if pre_tokenizers.composes(stored):
        limits = (
            "llama.cpp does not compose characters (NFC) as the tokenizer does: text with accents as characters of "
            "their own may get other ids",
        )
    merges = [" ".join(merge) for merge in _merges(stored)]
    return Vocabulary("gpt2", pre_tokenizers.of_bytes(stored), tokens, types, merges=merges, limits=limits)


def _of_pieces(stored: Fields, size: int) -> Vocabulary:
    scheme = pre_tokenizers.puts_space_in_front(stored)
    vocabulary: Mapping[str, int] = stored["model"]["vocab"]
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]
    if missing:
        raise ExportError(f"formats: the tokenizer has no token for the byte {missing[0]}; leave out 'gguf'")
    tokens, types = _texts(stored, size), _types(stored, size)
    # These are found in the text itself, where a space is a space.
    tokens = [t.replace(SPACE, " ") if kind == USER_DEFINED else t for t, kind in zip(tokens, types, strict=True)]
    limits: tuple[str, ...] = ()
    if scheme == "first":
        limits = (
            "llama.cpp puts no space before a text, the tokenizer does before one that no special token comes before",
        )
    scores = _scores(stored, size)
    return Vocabulary("llama", "default", tokens, types, scores=scores, space=scheme == "always", limits=limits)


def _texts(stored: Fields, size: int) -> list[str]:
    texts = [f"[PAD{i}]" for i in range(size)]  # llama.cpp wants one for each id, all different
    for token, i in _ids(stored).items():
        if i < size:
            texts[i] = token
    return texts


def _ids(stored: Fields) -> dict[str, int]:
    return {**stored["model"]["vocab"], **{token["content"]: token["id"] for token in stored["added_tokens"]}}


def _types(stored: Fields, size: int) -> list[int]:
    types = [UNUSED] * size
    unknown, falls_back = stored["model"].get("unk_token"), stored["model"].get("byte_fallback")
    for token, i in stored["model"]["vocab"].items():
        if i < size:
            types[i] = BYTE if falls_back and _BYTE_TOKEN.fullmatch(token) else NORMAL
    for token in stored["added_tokens"]:
        if token["id"] < size:
            types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    if unknown is not None and _ids(stored).get(unknown, size) < size:
        types[_ids(stored)[unknown]] = UNKNOWN
    return types


def _merges(stored: Fields) -> list[tuple[str, str]]:
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in stored["model"]["merges"]]
    return [(left, right) for left, right in merges]


def _scores(stored: Fields, size: int) -> list[float]:
    """SentencePiece merges any two neighbours that make a token, the token with the highest score first. So scores say
    the same as ranked merges if all pairs that make a token are merges, and follow each other.

    Raises:
        ExportError: they do not.
    """
    vocabulary: Mapping[str, int] = stored["model"]["vocab"]
    added = {token["content"] for token in stored["added_tokens"]}
    ranks: dict[str, list[int]] = {}
    for rank, (left, right) in enumerate(_merges(stored)):
        ranks.setdefault(left + right, []).append(rank)
    for token in vocabulary:
        if token in added or _BYTE_TOKEN.fullmatch(token):
            continue
        pairs = sum(token[:cut] in vocabulary and token[cut:] in vocabulary for cut in range(1, len(token)))
        found = ranks.get(token, [])
        if len(found) != pairs or (found and found[-1] - found[0] != pairs - 1):
            raise ExportError(
                f"formats: llama.cpp merges pieces by the scores of SentencePiece, which cannot say the merges of "
                f"tokenizer.json: {token!r} is made by {len(found)} of the {pairs} pairs that it could be made by, or "
                "others come between; leave out 'gguf', or train with another tokenizer"
            )
    scores = [_NEVER] * size
    for token, i in vocabulary.items():
        if i < size and token in ranks:
            scores[i] = -float(ranks[token][0])
    return scores
