"""Special tokens that somebody wrote in a text.

A tokenizer turns "<|im_end|>" into a control token wherever it stands, even in what a user typed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from marin_sft.data.messages.examples import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MARK = "\U0010fff2"
"""Unknown to all templates and tokenizers."""


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> frozenset[str]:
    """All special tokens, including those without a name such as bos or eos."""
    added = tokenizer.added_tokens_decoder.values()
    return frozenset((*tokenizer.all_special_tokens, *(token.content for token in added if token.special)))


@functools.lru_cache(maxsize=16)
def pattern_of(tokens: frozenset[str]) -> re.Pattern[str]:
    """Finds the longest of `tokens`. Common prefixes are matched once, as there may be a thousand tokens."""
    return re.compile(_alternatives(sorted(token for token in tokens if token)) if tokens else "(?!)")


def _alternatives(tokens: list[str]) -> str:
    """A regular expression for `tokens`, which are sorted and not empty."""
    by_first: dict[str, list[str]] = {}
    for token in tokens:
        by_first.setdefault(token[0], []).append(token[1:])
    branches = []
    for first, rests in by_first.items():
        longer = [rest for rest in rests if rest]
        rest = f"{_alternatives(longer)}{'' if len(longer) == len(rests) else '?'}" if longer else ""
        branches.append(re.escape(first) + rest)
    return f"(?:{'|'.join(branches)})"


def texts_of(value: object) -> Iterator[str]:
    """All strings in a JSON value, except keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_of(item)


def texts_of_messages(messages: Iterable[Message], read: frozenset[str]) -> Iterator[str]:
    """All texts in `messages`. Keys other than `content` count only if the template reads them."""
    for message in messages:
        yield message["content"]
        if len(message) > 2:
            for key, value in message.items():
                if key in read and key not in ("role", "content"):
                    yield from texts_of(value)


def with_marks(value: object, pattern: re.Pattern[str]) -> Any:
    """A JSON value with MARK after the first character of each special token, which stops it from being one."""
    return _mapped(value, lambda text: pattern.sub(lambda found: found[0][0] + MARK + found[0][1:], text))


def _mapped(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: item if key == "role" else _mapped(item, change) for key, item in value.items()}
    return [_mapped(item, change) for item in value] if isinstance(value, list) else value


def places_of_marks(marked: str, text: str, pattern: re.Pattern[str]) -> list[tuple[int, int]] | None:
    """The [start, end) in `text` of the special tokens marked in `marked`. None if that is a different text."""
    pieces = marked.split(MARK)
    if "".join(pieces) != text:
        return None
    places, done = [], 0
    for piece in pieces[:-1]:
        done += len(piece)
        found = pattern.match(text, done - 1)
        if found is None:
            return None
        places.append(found.span())
    return places
