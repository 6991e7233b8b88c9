"""Keeps or strips the reasoning in earlier assistant turns, independently of the chat template."""

from __future__ import annotations

from collections.abc import Sequence

from marin_sft.data.formats import HistoryThinking
from marin_sft.data.messages.examples import Message

OPEN, CLOSE = "<think>", "</think>"
KEYS = ("reasoning_content", "reasoning", "thinking")
# As long as the tags, and unknown to all templates: reasoning inside them passes through.
_HIDDEN_OPEN, _HIDDEN_CLOSE = "\U0010fff0" * len(OPEN), "\U0010fff1" * len(CLOSE)


def split_reasoning(content: str) -> tuple[str, str] | None:
    """(reasoning, answer) of content that begins with a `<think>` block; None for other content."""
    if not content.lstrip().startswith(OPEN) or CLOSE not in content:
        return None
    reasoning, _, answer = content.lstrip().removeprefix(OPEN).partition(CLOSE)
    return reasoning, answer


def with_history_thinking(messages: Sequence[Message], policy: HistoryThinking | None) -> list[Message]:
    """The messages to render. The rendered text must go through `reveal`."""
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    return [
        _changed(message, policy) if policy and message["role"] == "assistant" and index != last else message
        for index, message in enumerate(messages)
    ]


def reveal(text: str) -> str:
    """The text with kept reasoning in its usual tags. All offsets stay the same."""
    return text if text.isascii() else text.replace(_HIDDEN_OPEN, OPEN).replace(_HIDDEN_CLOSE, CLOSE)


def _changed(message: Message, policy: HistoryThinking) -> Message:
    changed = {key: value for key, value in message.items() if key not in KEYS}
    inside = split_reasoning(message["content"])
    separate = next((message[key] for key in KEYS if message.get(key)), None)
    if policy == "strip":
        return {**changed, "content": inside[1].lstrip() if inside else message["content"]}
    if inside:
        return {**changed, "content": f"{_HIDDEN_OPEN}{inside[0]}{_HIDDEN_CLOSE}{inside[1]}"}
    if separate:
        block = f"{_HIDDEN_OPEN}\n{separate.strip()}\n{_HIDDEN_CLOSE}\n\n"
        return {**changed, "content": block + message["content"].lstrip()}
    return changed
