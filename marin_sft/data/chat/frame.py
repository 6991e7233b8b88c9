"""What a chat template without generation tags writes around the assistant's turns."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from marin_sft.data.chat.alignment import Range
from marin_sft.data.chat.chats import PLANE, Chat
from marin_sft.data.chat.reasoning import OPEN
from marin_sft.data.chat.special_tokens import pattern_of
from marin_sft.data.messages.examples import BadRow, Message

_MARK = chr(PLANE)


@dataclass(frozen=True)
class Frame:
    """The text around a turn.

    header: the generation prompt, up to the reasoning that it may open. Empty if the template has none.
    lead: what the model writes between the header and its answer, e.g. the channel in gpt-oss.
    closing: the special tokens that close every turn. Empty if unknown.
    ended_by_next: nothing closes the last turn, as in GLM, where the token of the next role ends a turn.
    special: tokens that may close a turn.
    """

    header: str
    lead: str
    closing: str
    ended_by_next: bool
    special: frozenset[str]

    @functools.cached_property
    def closer(self) -> re.Pattern[str]:
        """What closes a turn: the usual tokens, else any special token. A token that opens a turn closes none."""
        single = pattern_of(frozenset(token for token in self.special if token not in self.header))
        return re.compile(f"{re.escape(self.closing)}|{single.pattern}") if self.closing else single

    @functools.cached_property
    def foreign(self) -> re.Pattern[str]:
        """Special tokens that never stand between the header and the answer."""
        return pattern_of(frozenset(token for token in self.special if token not in self.lead))

    def end_of_text(self, text: str, end: int) -> int:
        """The end of the last turn, which is closed at `end`: after more closing tokens, if nothing else follows."""
        last, place = end, end
        while found := self._spaced_closer.match(text, place):
            last = place = found.end()
        return last if not text[last:].strip() else end

    @functools.cached_property
    def _spaced_closer(self) -> re.Pattern[str]:
        return re.compile(rf"\s*(?:{self.closer.pattern})")

    def is_open(self, text: str, span: Range) -> bool:
        """Whether no token ends the turn at `span`: it is the last turn, and only the next one would end it."""
        return self.ended_by_next and not text[span[1] :].strip() and not self._closed.search(text, *span)

    @functools.cached_property
    def _closed(self) -> re.Pattern[str]:
        return re.compile(rf"(?:{self.closer.pattern})\Z")


def frame_of(chat: Chat, text: str) -> Frame:
    """Found by rendering `chat`, whose text is `text`, and short dialogues of a question and an answer."""
    header = _header(chat, text)
    asked = {"role": "user", "content": "a"}
    answer = {"role": "assistant", "content": _MARK}
    last, followed = _rendered(chat, [asked, answer]), _rendered(chat, [asked, answer, asked])
    before, mark, after = last.rpartition(_MARK)
    lead = before[before.rfind(header) + len(header) :] if header and mark and header in before else ""
    lead = lead.replace(OPEN, "")
    if not mark or _MARK not in followed:
        return Frame(header, lead, "", False, chat.special)
    next_after = followed.partition(_MARK)[2]
    closing = _common_tokens(chat.special, after, next_after)
    opened = pattern_of(chat.special).match(next_after.lstrip())
    ended_by_next = not after.strip() and opened is not None and bool(header) and opened.group() not in header
    return Frame(header, lead, closing, ended_by_next, chat.special)


def _rendered(chat: Chat, messages: Sequence[Message]) -> str:
    try:
        return chat.render(messages)
    except BadRow:
        return ""


def _common_tokens(special: frozenset[str], one: str, other: str) -> str:
    """The consecutive special tokens that both texts begin with, after spaces."""
    one, other = one.lstrip(), other.lstrip()
    pattern, end = pattern_of(special), 0
    while (found := pattern.match(one, end)) and other.startswith(found.group(), end):
        end = found.end()
    return one[:end]


def _header(chat: Chat, text: str) -> str:
    """The generation prompt, without reasoning that it opens: that is the model's own."""
    header = _added(chat.special, text, chat.render(chat.messages, add_generation_prompt=True))
    if not header or header not in text:
        # Some templates write it only after a user's turn.
        answer = next(i for i, message in enumerate(chat.messages) if message["role"] == "assistant")
        if answer:
            before = chat.messages[:answer]
            header = _added(chat.special, chat.render(before), chat.render(before, add_generation_prompt=True))
    return header.partition(OPEN)[0]


def _added(special: frozenset[str], without: str, prompted: str) -> str:
    """What a generation prompt adds to a text. It may also remove a token that ends the text, as in Phi-3."""
    if prompted.startswith(without):
        return prompted[len(without) :]
    pieces, others = (_pieces(special, text) for text in (prompted, without))
    same = next((i for i, (one, other) in enumerate(zip(pieces, others, strict=False)) if one != other), 0)
    # They differ only at the end, or the prompt is not an addition.
    return "".join(pieces[same:]) if "".join(others[same:]).strip() in special else prompted


def _pieces(special: frozenset[str], text: str) -> list[str]:
    """Special tokens and the text between them."""
    return re.split(f"({pattern_of(special).pattern})", text)
