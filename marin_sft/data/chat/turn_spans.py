"""Finds each assistant turn in a rendered dialogue, without generation tags in the template.

Usually, each generation prompt in the text is followed by the text of the next assistant turn and an end-of-turn token.
Other dialogues are rendered again with marks in the text of the assistant's turns: single characters of a private
plane, one per turn. If removing the marks gives the first rendering again, they show exactly where the turns are. From
there, a turn extends back to the end of the generation prompt and forward to the end of its end-of-turn token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from marin_sft.data.chat.alignment import Range
from marin_sft.data.chat.chats import PLANE, Chat
from marin_sft.data.chat.frame import Frame
from marin_sft.data.chat.reasoning import CLOSE, KEYS, OPEN
from marin_sft.data.files import Json
from marin_sft.data.messages.examples import BadRow, Message
from marin_sft.data.messages.turns import other_keys

_BLANK = re.compile(rf"(?:\s|{OPEN}|{CLOSE})*")
_TAGS = re.compile(f"({OPEN}|{CLOSE})")
_MARK = re.compile(f"([{chr(PLANE)}-{chr(PLANE + 0xFFFD)}])")


@dataclass(frozen=True)
class Turn:
    """A turn that was found by its marks.

    index: the number of its message.
    marked: the message with marks.
    places: where in the text its marks are.
    wrapped: other text may stand between what it says and the token that closes it, as around calls.
    """

    index: int
    marked: Message
    places: list[int]
    wrapped: bool

    @property
    def first(self) -> int:
        return self.places[0]

    @property
    def last(self) -> int:
        return self.places[-1]


def find_turns(chat: Chat, text: str) -> list[Turn]:
    """The assistant turns of `text`, the rendering of all of `chat`, in order.

    Raises:
        BadRow: `unverified_mask`.
    """
    if _holds_marks(text):
        raise BadRow(
            "unverified_mask", "the dialogue has characters of the private plane U+F0000, which are used to find turns"
        )
    answers = [i for i, message in enumerate(chat.messages) if message["role"] == "assistant"]
    marked = [_marked(message, i, chat.read) for i, message in enumerate(chat.messages)]
    places = _mark_places(chat.render(marked), text)
    silent = [i for i in answers if i not in places]
    if silent:
        # If the template leaves out tool calls, only their empty content can be marked.
        marked = [{**m, "content": m["content"] + _mark(i)} if i in silent else m for i, m in enumerate(marked)]
        places = _mark_places(chat.render(marked), text)
    for index in silent:
        if index not in places:
            raise unverified(index, "none of it is rendered")
    turns = [
        Turn(i, marked[i], places[i], "tool_calls" in marked[i] or not other_keys(marked[i]).isdisjoint(chat.read))
        for i in answers
    ]
    for turn in turns:
        says = chat.messages[turn.index]["content"].strip() and turn.index not in silent and not turn.wrapped
        if says and len(turn.places) % 2:  # it is marked at both ends
            raise unverified(turn.index, "only a part of its content is rendered")
    if turns != sorted(turns, key=lambda turn: turn.first):
        raise BadRow("unverified_mask", "the template changes the order of assistant turns")
    return turns


def spans_of_turns(chat: Chat, text: str, frame: Frame) -> dict[int, Range]:
    """What the model generates, by index of the message: the content and the tokens that close it."""
    spans = _spans_of_plain_turns(chat, text, frame)
    if spans is None:
        spans, behind = {}, 0
        for turn in find_turns(chat, text):
            spans[turn.index] = (_start(chat, text, turn, frame, behind), _end(chat, text, turn, frame))
            behind = spans[turn.index][1]
    last = len(chat.messages) - 1
    if last in spans:
        spans[last] = (spans[last][0], frame.end_of_text(text, spans[last][1]))
    return spans


def _spans_of_plain_turns(chat: Chat, text: str, frame: Frame) -> dict[int, Range] | None:
    """`spans_of_turns` for the usual dialogue, without a second rendering. None for any other.

    Usual means that no message holds the generation prompt, so every one in `text` comes from the template: one per
    assistant turn, directly followed by the text of the turn and a token that closes a turn.
    """
    header = frame.header
    answers = [i for i, message in enumerate(chat.messages) if message["role"] == "assistant"]
    if not header or text.count(header) != len(answers) or _holds_marks(text):
        return None
    if any(header in message["content"] or not _is_plain(message, chat.read) for message in chat.messages):
        return None
    spans: dict[int, Range] = {}
    end = 0
    for index in answers:
        said = chat.messages[index]["content"].strip()
        found = text.find(header, end)
        start = found + len(header)
        closed = frame.closer.match(text, start + len(said))
        if found < 0 or not said or not closed or CLOSE in said or not text.startswith(said, start):
            return None
        end = closed.end()
        spans[index] = (start, end)
    return spans


def _is_plain(message: Message, read: frozenset[str]) -> bool:
    """Whether the template uses only the role and the content of a message."""
    return len(message) == 2 or all(key in ("role", "content") or key not in read for key in message)


def _start(chat: Chat, text: str, turn: Turn, frame: Frame, behind: int) -> int:
    header = frame.header
    if header:
        found = text.rfind(header, behind, turn.first)
        start = found + len(header)
        if found < 0 or (not turn.wrapped and frame.foreign.search(text, start, turn.first)):
            raise unverified(turn.index, f"it does not follow the generation prompt {header!r}")
        return start
    # Without a generation prompt, a turn begins where the previous message is closed, with nothing in between.
    mark = _mark(turn.index)
    before = chat.messages[: turn.index]
    asked = [*before[:-1], {**before[-1], "content": mark}] if before else []
    ending = _part(chat, turn.index, asked).rpartition(mark)[2]
    _, *between = _part(chat, turn.index, [*asked, _bare(turn.index)]).split(mark)[-3:]
    found = text.rfind(ending, max(behind - len(ending), 0), turn.first)
    start = found + len(ending)
    lead = text[start : turn.first].replace(OPEN, "").strip()
    if (
        found >= 0
        and between[:1]
        and between[0].rstrip() == ending.rstrip()
        and (not lead or (turn.wrapped and ending))
    ):
        return start
    raise unverified(turn.index, "the template has no generation prompt, and the turn is not next to its prompt")


def _end(chat: Chat, text: str, turn: Turn, frame: Frame) -> int:
    """The end of the special tokens that close the turn."""
    closer = frame.closer
    if not turn.wrapped:
        blank = _BLANK.match(text, turn.last)
        match = closer.match(text, blank.end() if blank else turn.last)
        if match is None and frame.ended_by_next and not text[turn.last :].strip():
            return turn.last
        if match is None:
            raise unverified(turn.index, f"no special token closes it: {text[turn.last : turn.last + 40]!r} follows")
        return match.end()
    # Several special tokens may follow a tool call. A turn without calls shows which one closes the turn.
    before = chat.messages[: turn.index]
    *said, tail = _MARK.split(_part(chat, turn.index, [*before, turn.marked]))
    last = turn.places[min(len(said) // 2, len(turn.places)) - 1]  # the results of tools may repeat names of the call
    bare = _part(chat, turn.index, [*before, _bare(turn.index)]).partition(_mark(turn.index))[2]
    usual = closer.match(bare.lstrip())
    if usual and usual.group() in tail:
        tail = tail[: tail.index(usual.group())]
    else:
        tail = tail[: max((match.start() for match in closer.finditer(tail)), default=0)]
    # At the end of a dialogue, a turn may have another closing token than within it.
    closed = closer.match(text, last + len(tail)) if text.startswith(tail, last) else None
    if closed is None:
        raise unverified(turn.index, "no special token closes its tool calls")
    return closed.end()


def _part(chat: Chat, index: int, messages: Sequence[Message]) -> str:
    try:
        return chat.render(messages, add_generation_prompt=False)
    except BadRow as bad:
        raise unverified(index, f"the template cannot render the dialogue up to it by itself ({bad.message})") from bad


def _bare(index: int) -> Message:
    """A turn with only its mark as content."""
    return {"role": "assistant", "content": _mark(index)}


def _mark(index: int) -> str:
    return chr(PLANE + index)


def _marked(message: Message, index: int, read: frozenset[str]) -> Message:
    """The message with marks at both ends of what an assistant says, but nowhere that a template may test."""
    if message["role"] != "assistant":
        return message
    if index > 0xFFFD:
        raise unverified(index, f"there are more than {0xFFFD} turns")
    mark = _mark(index)
    texts = [key for key in (*KEYS, *(other_keys(message) & read)) if isinstance(message.get(key), str)]
    marked = {**message, **{key: around(message[key], mark) for key in texts}}
    content = message["content"]
    if CLOSE in content:  # the template may split it there
        marked["content"] = "".join(
            piece if piece in (OPEN, CLOSE) else around(piece, mark) for piece in _TAGS.split(content)
        )
    elif content.strip():
        marked["content"] = around(content, mark)
    elif not message.get("tool_calls") and not other_keys(message) & read:
        marked["content"] = content + mark
    if message.get("tool_calls"):
        marked["tool_calls"] = [_marked_call(call, mark) for call in message["tool_calls"]]
    return marked


def around(text: str, mark: str) -> str:
    """`text` with marks at both ends, inside outer spaces, which templates strip."""
    said = text.strip()
    if not said:
        return text
    start = text.index(said)
    return f"{text[:start]}{mark}{said}{mark}{text[start + len(said) :]}"


def _marked_call(call: Json, mark: str) -> Json:
    function = call.get("function", call)
    marked = {**function, "name": f"{mark}{function.get('name', '')}{mark}"}
    if "arguments" in function:
        marked["arguments"] = marked_leaves(function["arguments"], mark)
    return {**call, "function": marked} if "function" in call else marked


def marked_leaves(value: object, mark: str) -> object:
    match value:
        case str():
            return value + mark
        case dict():
            return {key: marked_leaves(item, mark) for key, item in value.items()}
        case list():
            return [marked_leaves(item, mark) for item in value]
    return value


def _mark_places(marked: str, text: str) -> dict[int, list[int]]:
    """Where in `text` the marks of each message are."""
    split = _MARK.split(marked)  # a piece of text, a mark, a piece of text and so on
    pieces, marks = split[::2], split[1::2]
    if "".join(pieces) != text:
        raise BadRow("unverified_mask", f"marks in the assistant's turns change the rendering. {_ADVICE}")
    places: dict[int, list[int]] = {}
    done = 0
    for piece, mark in zip(pieces, marks, strict=False):
        done += len(piece)
        places.setdefault(ord(mark) - PLANE, []).append(done)
    return places


def _holds_marks(text: str) -> bool:
    return not text.isascii() and _MARK.search(text) is not None


_ADVICE = (
    "The chat template has no {% generation %} tags: put them around what the assistant says, its end-of-turn token "
    "included, and pass the text as format.chat_template"
)


def unverified(index: int, what: str) -> BadRow:
    return BadRow("unverified_mask", f"assistant turn at message {index}: {what}. {_ADVICE}")
