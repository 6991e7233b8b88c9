"""Finds the parts of messages that the chat template leaves out.

Each part gets its own mark, and the dialogue is rendered again: a part whose mark is missing was left out. If marks
change the rest of the rendering, the parts are marked one at a time; if the text stays the same, the part is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from marin_sft.data.chat.chats import PLANE, Chat
from marin_sft.data.chat.reasoning import CLOSE, KEYS, OPEN
from marin_sft.data.chat.turn_spans import around, marked_leaves
from marin_sft.data.formats import NotRendered
from marin_sft.data.messages.examples import BadRow, Message

Place = tuple[str, bool, bool]
"""Role, whether the message calls tools, and whether it is the first or last one and neither the user's nor the
assistant's: most templates go by these when they leave out the content of a message."""


@dataclass(frozen=True)
class _Part:
    """Something that message `index` holds; `marked` puts a mark into it."""

    index: int
    kind: NotRendered
    marked: Callable[[Message, str], Message]


def find_unrendered(chat: Chat, text: str, rendered: set[Place]) -> list[tuple[int, NotRendered]]:
    """What is missing in `text`, the rendering of `chat`: numbers of messages, and the kind of part.

    Contents at the places in `rendered` are known to be rendered, and are skipped. New places are added.
    """
    edges = (0, len(chat.messages) - 1)
    places = [
        (m["role"], len(m) > 2 and "tool_calls" in m, index in edges and m["role"] not in ("user", "assistant"))
        for index, m in enumerate(chat.messages)
    ]
    parts = [
        part
        for index, (message, place) in enumerate(zip(chat.messages, places, strict=True))
        if len(message) > 2 or place not in rendered or CLOSE in message["content"]
        for part in _parts(message, index)
        if part.kind != "content" or place not in rendered
    ]
    if not parts:
        return []
    seen = _seen(chat, text, parts)
    rendered.update(places[p.index] for p, there in zip(parts, seen, strict=True) if there and p.kind == "content")
    # Some rows have their reasoning under two keys; one of them is enough.
    thought = {part.index for part, there in zip(parts, seen, strict=True) if there and part.kind == "reasoning"}
    left_out = [
        (part.index, part.kind)
        for part, there in zip(parts, seen, strict=True)
        if not there and not (part.kind == "reasoning" and part.index in thought)
    ]
    return list(dict.fromkeys(left_out))


def _seen(chat: Chat, text: str, parts: list[_Part]) -> list[bool]:
    """Whether each of `parts` is in `text`."""
    marks = [chr(PLANE + number % 0xFFFE) for number in range(len(parts))]
    messages = list(chat.messages)
    for part, mark in zip(parts, marks, strict=True):
        messages[part.index] = part.marked(messages[part.index], mark)
    marked = _rendered(chat, messages)
    if marked is not None and marked.translate(dict.fromkeys(map(ord, marks))) == text:
        return [mark in marked for mark in marks]
    return [_changes(chat, text, part) for part in parts]


def _changes(chat: Chat, text: str, part: _Part) -> bool:
    messages = list(chat.messages)
    messages[part.index] = part.marked(messages[part.index], chr(PLANE))
    return _rendered(chat, messages) != text  # a template that fails on it has read it


def _rendered(chat: Chat, messages: list[Message]) -> str | None:
    try:
        return chat.render(messages)
    except BadRow:
        return None


def _parts(message: Message, index: int) -> Iterator[_Part]:
    content = message["content"]
    if message["role"] != "assistant":
        if content.strip():
            yield _Part(index, "content", _in_key("content"))
        return
    for key in KEYS:
        if isinstance(message.get(key), str) and message[key].strip():
            yield _Part(index, "reasoning", _in_key(key))
    thought, answer = _split(content)
    if thought.strip():
        yield _Part(index, "reasoning", _in_thought)
    if answer.strip():
        yield _Part(index, "content", _in_answer)
    for number, call in enumerate(message.get("tool_calls", ())):
        yield _Part(index, "calls", _in_call(number, "name"))
        arguments = call["function"].get("arguments")
        if marked_leaves(arguments, "!") != arguments:  # some of them are text
            yield _Part(index, "calls", _in_call(number, "arguments"))


def _split(content: str) -> tuple[str, str]:
    """The reasoning in the content of an assistant's turn, and the rest after it."""
    head, close, answer = content.rpartition(CLOSE)
    return (head.rpartition(OPEN)[2], answer) if close else ("", content)


def _in_key(key: str) -> Callable[[Message, str], Message]:
    return lambda message, mark: {**message, key: around(message[key], mark)}


def _in_thought(message: Message, mark: str) -> Message:
    thought, answer = _split(message["content"])
    before = message["content"].removesuffix(thought + CLOSE + answer)
    return {**message, "content": before + around(thought, mark) + CLOSE + answer}


def _in_answer(message: Message, mark: str) -> Message:
    answer = _split(message["content"])[1]
    return {**message, "content": message["content"].removesuffix(answer) + around(answer, mark)}


def _in_call(number: int, key: str) -> Callable[[Message, str], Message]:
    def marked(message: Message, mark: str) -> Message:
        calls = list(message["tool_calls"])
        function = calls[number]["function"]
        calls[number] = {**calls[number], "function": {**function, key: marked_leaves(function[key], mark)}}
        return {**message, "tool_calls": calls}

    return marked
