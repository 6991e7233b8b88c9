"""Example -> the texts in it that are checked and compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from marin_sft.data.chat.reasoning import KEYS
from marin_sft.data.chat.special_tokens import texts_of
from marin_sft.data.messages.examples import (
    Dialogue,
    Example,
    Message,
    Preference,
    Rated,
    Segments,
    Text,
    TextPreference,
    Tokens,
)

TOOLS = "tools"
_ASKING = ("user", "system", "developer")
_SIDE = "\2"


class Said(NamedTuple):
    """What an example says.

    prompt: what the user says, in all turns. Of a plain text without a prompt, the text itself.
    answer: what is trained, in all turns; of a pair, the chosen side. None for a plain text without a prompt.
    rejected: the other side of a pair, else None.
    texts: all texts, each with whose it is, or TOOLS for what describes tools.
    turns: the messages, of a pair with the chosen side; empty for plain text.
    row_key: equal for equal rows. prompt_key: for equal turns of the user and the system.
    swapped_key: the `row_key` of the same pair with its sides swapped; else 0.
    """

    prompt: str
    answer: str | None
    rejected: str | None
    texts: list[tuple[str, str]]
    turns: list[Message]
    row_key: int
    prompt_key: int
    swapped_key: int = 0


def said_in(example: Example) -> Said | None:
    """None for tokens made elsewhere, which have no text."""
    match example:
        case Dialogue():
            return _of_dialogue(example)
        case Rated():
            return _of_dialogue(example.dialogue)
        case Preference():
            return _of_preference(example)
        case TextPreference(prompt=prompt, chosen=chosen, rejected=rejected):
            keys = key_of([prompt, chosen, rejected]), key_of([prompt]), key_of([prompt, rejected, chosen])
            return Said(prompt, chosen, rejected, _named(prompt=prompt, chosen=chosen, rejected=rejected), [], *keys)
        case Text(prompt="", text=text):
            return Said(text, None, None, _named(text=text), [], key_of([text]), key_of([text]))
        case Text(prompt=prompt, text=text):
            return _of_plain(prompt, text)
        case Segments(pieces=pieces):
            prompt, answer = ("".join(text for text, trained in pieces if trained is on) for on in (False, True))
            return _of_plain(prompt, answer)
        case Tokens():
            return None


def _of_plain(prompt: str, answer: str) -> Said:
    texts = _named(prompt=prompt, completion=answer)
    return Said(prompt, answer, None, texts, [], key_of([prompt, answer]), key_of([prompt]))


def _of_dialogue(dialogue: Dialogue) -> Said:
    turns = dialogue.messages
    more = [json.dumps([dialogue.tools, dialogue.chat_template_kwargs], sort_keys=True)] if dialogue.tools else []
    everything = [part for turn in turns for part in _parts(turn)]
    keys = key_of(everything + more), key_of(_asked(turns))
    texts = _texts(turns) + [(TOOLS, text) for text in texts_of(dialogue.tools)]
    return Said(_by(turns, "user"), _by(turns, "assistant"), None, texts, turns, *keys)


def _of_preference(pair: Preference) -> Said:
    asked, chosen, rejected = (
        [part for turn in side for part in _parts(turn)] for side in (pair.prompt, pair.chosen, pair.rejected)
    )
    keys = (
        key_of([*asked, _SIDE, *chosen, _SIDE, *rejected]),
        key_of(_asked(pair.prompt)),
        key_of([*asked, _SIDE, *rejected, _SIDE, *chosen]),
    )
    prompt, chosen_text, rejected_text = (
        _by(turns, role)
        for turns, role in ((pair.prompt, "user"), (pair.chosen, "assistant"), (pair.rejected, "assistant"))
    )
    texts = _texts([*pair.prompt, *pair.chosen]) + _texts(pair.rejected)
    return Said(prompt, chosen_text, rejected_text, texts, pair.prompt + pair.chosen, *keys)


def _asked(turns: Iterable[Message]) -> list[str]:
    return [part for turn in turns if turn["role"] in _ASKING for part in _parts(turn)]


def _by(turns: Iterable[Message], role: str) -> str:
    return "\n".join([turn["content"] for turn in turns if turn["role"] == role and turn["content"]])


def _named(**texts: str) -> list[tuple[str, str]]:
    return list(texts.items())


def _texts(turns: Iterable[Message]) -> list[tuple[str, str]]:
    """All texts of the turns, with reasoning and arguments of calls."""
    found = []
    for turn in turns:
        found.append((turn["role"], turn["content"]))
        if len(turn) > 2:
            more = {key: value for key, value in turn.items() if key in KEYS or key == "tool_calls"}
            found += [(turn["role"], text) for text in texts_of(more)]
    return found


def _parts(turn: Message) -> list[str]:
    if len(turn) == 2:
        return [turn["role"], turn["content"]]
    return [json.dumps(turn, sort_keys=True, ensure_ascii=False, default=str)]


def key_of(parts: Sequence[str]) -> int:
    """A hash of texts, the same in every process."""
    text = "\0".join(parts).encode(errors="surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
