"""How a tokenizer splits text before its merges, by the names that llama.cpp has for it.

It is recognized by the normalizer and the pre-tokenizer in tokenizer.json. llama.cpp's own converter goes by a hash of
how one text is tokenized, which knows no vocabulary but the published ones.
"""

from __future__ import annotations

from marin_sft.errors import ExportError
from marin_sft.training.models.model_config import Fields

SPACE = "▁"
"""What SentencePiece writes for a space."""

_ENDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_CASED_ENDS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_REGEXES = {
    (rf"{_WORDS}|\p{{N}}{{1,3}}{_ENDS}", True): "llama-bpe",
    (rf"{_WORDS}|\p{{N}}{{1,3}}{_ENDS}", False): "dbrx",
    (rf"{_WORDS}|\p{{N}}{_ENDS}", False): "qwen2",
    (rf"{_CASED % ('', '')}|\p{{N}}{_CASED_ENDS}", True): "tekken",
    (rf"{_CASED % (_CONTRACTION, _CONTRACTION)}|\p{{N}}{{1,3}}{_CASED_ENDS}", False): "gpt-4o",
}
# By the regex, and whether a word that is a token is taken as it is, without merges.
_SPLITS = {
    ("as GPT-2's",): "gpt-2",
    ("digits", "as GPT-2's"): "smollm",
}
_KNOWN = ", ".join(sorted({*_REGEXES.values(), *_SPLITS.values()}))
_ADVICE = f"expected one of {_KNOWN}; leave out 'gguf', or train with another tokenizer"


def of_bytes(tokenizer: Fields) -> str:
    """llama.cpp's name for how a BPE over bytes splits text. `tokenizer`: the object in tokenizer.json.

    Raises:
        ExportError: it has none.
    """
    parts, ignores_merges = _parts(tokenizer["pre_tokenizer"]), bool(tokenizer["model"].get("ignore_merges"))
    name = _name(parts, ignores_merges)
    if name is None:
        raise ExportError(
            f"formats: llama.cpp has no name for the pre-tokenizer of tokenizer.json, {parts!r} "
            f"(ignore_merges = {ignores_merges}): {_ADVICE}"
        )
    normalizers = _flat(tokenizer["normalizer"], "normalizers")
    if normalizers not in ([], [{"type": "NFC"}]):
        raise ExportError(
            f"formats: llama.cpp does not have the normalizer of tokenizer.json, {normalizers!r}: expected none, or "
            "NFC; leave out 'gguf'"
        )
    return name


def composes(tokenizer: Fields) -> bool:
    """Whether it composes characters (NFC), which llama.cpp does not."""
    return {"type": "NFC"} in _flat(tokenizer["normalizer"], "normalizers")


def _name(parts: list[object], ignores_merges: bool) -> str | None:
    if len(parts) == 2 and parts[1] == "bytes":
        return _REGEXES.get((str(parts[0]), ignores_merges))
    return None if ignores_merges else _SPLITS.get(tuple(map(str, parts)))


def _parts(pre_tokenizer: Fields | None) -> list[object]:
    """Each part in the words of `_SPLITS`, a regex as it is, anything else as in tokenizer.json."""
    return [_part(part) for part in _flat(pre_tokenizer, "pretokenizers")]


def _part(part: Fields) -> object:
    match part:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return "as GPT-2's"
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}:
            return "bytes"
        case {"type": "Digits", "individual_digits": True}:
            return "digits"
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}:
            return regex
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Removed", "invert": True}:
            return regex
    return dict(part)


def _flat(part: Fields | None, parts: str) -> list[Fields]:
    """The parts of a sequence; no sequence is one part."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [each for inner in part[parts] for each in _flat(inner, parts)]


def puts_space_in_front(tokenizer: Fields) -> str:
    """Where a tokenizer of SentencePiece's kind puts a space that is not in the text: "always" (before each text
    between special tokens), "first" (only before the whole text), "never".

    Raises:
        ExportError: it is of another kind.
    """
    normalizers = [dict(part) for part in _flat(tokenizer["normalizer"], "normalizers")]
    splits = [dict(part) for part in _flat(tokenizer["pre_tokenizer"], "pretokenizers")]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    # After the normalizer, no space is left to split at.
    splits = [part for part in splits if (part["type"], part.get("pattern")) != ("Split", {"String": " "})]
    if normalizers == [{"type": "Prepend", "prepend": SPACE}, replace] and not splits:
        return "always"
    if normalizers == [replace] and not splits:
        return "never"
    if not normalizers and len(splits) == 1:
        match splits[0]:
            case {"type": "Metaspace", "replacement": "▁", "prepend_scheme": str(scheme), "split": False}:
                return scheme
    raise ExportError(
        f"formats: llama.cpp does not have the normalizer and pre-tokenizer of tokenizer.json, {normalizers!r} and "
        f"{splits!r}; leave out 'gguf', or train with another tokenizer"
    )
