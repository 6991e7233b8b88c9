"""What users should know about a dialogue: parts of it that the tokens change or leave out.

`NOTES` are counted for documents that are kept. What the format does not allow drops the row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from marin_sft.data.chat.alignment import Noted, Range
from marin_sft.data.chat.chats import Chat
from marin_sft.data.chat.reasoning import KEYS
from marin_sft.data.chat.special_tokens import pattern_of, places_of_marks, texts_of, texts_of_messages, with_marks
from marin_sft.data.chat.unrendered import Place, find_unrendered
from marin_sft.data.files import Json
from marin_sft.data.formats import ChatLmDatasetFormat, NotRendered
from marin_sft.data.messages.examples import BadRow, Message
from marin_sft.data.messages.turns import other_keys

NOTES = {
    "special_tokens_in_text": "special tokens that somebody wrote",
    "earlier_reasoning_not_rendered": "turns before the last whose reasoning the template leaves out",
    "reasoning_not_rendered": "last turns whose reasoning the template leaves out, as the format allows",
    "calls_not_rendered": "turns whose calls the template leaves out, as the format allows",
    "content_not_rendered": "messages whose content the template leaves out, as the format allows",
    "no_end_of_turn": "last turns that the template does not end, so that their end is not trained",
    "template_date": "dialogues whose template asks for the date",
}

DATE = "template_date"

_CALLS_BY_OTHER_NAMES = re.compile("call|tool|function|action", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class NoteTaker:
    """Looks at one dialogue after another. `special`: the tokenizer's special tokens."""

    special: frozenset[str]
    format: ChatLmDatasetFormat
    _rendered: dict[frozenset[str], set[Place]] = field(default_factory=dict, repr=False)
    _looked_up: dict[tuple[frozenset[str], str], bool] = field(default_factory=dict, repr=False)

    def of_text(self, chat: Chat, text: str) -> dict[str, int]:
        """Counts by the names of `NOTES` for `chat`, whose rendering is `text`.

        Raises:
            BadRow: `special_tokens_in_text`, `calls_not_rendered`, `reasoning_not_rendered`, `content_not_rendered`.
        """
        counts: dict[str, int] = {}
        texts = ["\0".join(texts_of_messages(chat.messages, chat.read)), *texts_of(chat.tools)]
        if written := self.written(texts):
            counts["special_tokens_in_text"] = len(written)
        for index, kind in find_unrendered(chat, text, self._rendered.setdefault(chat.read, set())):
            name = f"{kind}_not_rendered"
            if kind == "reasoning" and not _is_last_answer(chat.messages, index):
                name = "earlier_reasoning_not_rendered"
            elif kind not in self.format.allow_not_rendered:
                raise _left_out(chat.messages[index], index, kind)
            counts[name] = counts.get(name, 0) + 1
        return counts

    def written(self, texts: Iterable[str]) -> list[Range]:
        """The special tokens in each of `texts`. Raises BadRow `special_tokens_in_text` if they are not allowed."""
        pattern = pattern_of(self.special)
        found = [token for text in texts for token in pattern.finditer(text)]
        if found and self.format.special_tokens_in_text in ("drop", "raise"):
            what = f"its text has {len(found)} special tokens, the first is {found[0].group()!r}"
            raise BadRow("special_tokens_in_text", f"{what}; see special_tokens_in_text of the format")
        return [token.span() for token in found]

    def to_escape(self, chat: Chat, text: str) -> Sequence[Range]:
        """Where `text` has special tokens that somebody wrote, if they are to be escaped; else nothing.

        Raises:
            BadRow: `special_tokens_in_text`, if the template changes what they wrote.
        """
        if self.format.special_tokens_in_text != "escape":
            return ()
        pattern = pattern_of(self.special)
        marked = chat.render(with_marks(chat.messages, pattern), tools=with_marks(chat.tools, pattern))
        places = places_of_marks(marked, text, pattern)
        if places is None:
            what = "the template changes the text around special tokens in messages"
            raise BadRow("special_tokens_in_text", f"{what}, so they cannot be escaped")
        return places

    def unread_keys(self, chat: Chat, text: str, kwargs: Mapping[str, object]) -> frozenset[str]:
        """Keys of a row that the template does not use, so that no token shows them. `kwargs`: the row's own.

        Raises:
            BadRow: `calls_not_rendered`, for a turn that says something only under such keys.
        """
        unread = {f"chat_template_kwargs.{key}" for key in kwargs if key not in chat.variables}
        if chat.tools and "tools" not in chat.variables:
            unread.add("tools")
        for index, message in enumerate(chat.messages):
            if len(message) > 2:
                more = other_keys(message) | (message.keys() & {"name", "tool_call_id"})
                keys = [key for key in sorted(more) if not self._looks_up(chat, text, index, key)]
                unread.update(f"messages.{key}" for key in keys)
                calls = [key for key in keys if message[key] and _CALLS_BY_OTHER_NAMES.search(key)]
                if calls and _says_nothing(message) and "calls" not in self.format.allow_not_rendered:
                    raise _left_out(message, index, "calls", f", which are under {calls},")
        return frozenset(unread)

    def _looks_up(self, chat: Chat, text: str, index: int, key: str) -> bool:
        """By the text of the template. If it writes whole messages, the row is rendered without the key to find out."""
        if key in chat.read:
            return True
        if (chat.read, key) not in self._looked_up:
            messages = list(chat.messages)
            messages[index] = {name: value for name, value in messages[index].items() if name != key}
            try:
                self._looked_up[chat.read, key] = chat.render(messages) != text
            except BadRow:
                self._looked_up[chat.read, key] = True
        return self._looked_up[chat.read, key]


@dataclass
class Tally:
    """What was noted about many rows: documents and occurrences by the names of `NOTES`, and rows by unread key."""

    documents: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    unread_keys: Counter[str] = field(default_factory=Counter)

    def add(self, noted: Noted, unused_keys: frozenset[str]) -> None:
        """Add one row: what was `noted` about it, and the keys that its shape does not use."""
        if noted:
            self.documents.update(noted.counts.keys())
            self.counts.update(noted.counts)
            self.unread_keys.update(noted.unread_keys)
        if unused_keys:
            self.unread_keys.update(unused_keys)

    @staticmethod
    def together(parts: Iterable[Tally]) -> Tally:
        whole = Tally()
        for part in parts:
            whole.documents += part.documents
            whole.counts += part.counts
            whole.unread_keys += part.unread_keys
        return whole

    def stats(self, format: ChatLmDatasetFormat) -> Json:
        """For stats.json, under `noted`, `unread_keys` and `template_date`. Empty ones are left out."""
        names = [name for name in NOTES if name != DATE and self.documents[name]]
        noted = {name: {"documents": self.documents[name], "count": self.counts[name]} for name in names}
        unread = dict(sorted(self.unread_keys.items()))
        dated = {DATE: format.template_date} if self.documents[DATE] else {}
        return {**({"noted": noted} if noted else {}), **({"unread_keys": unread} if unread else {}), **dated}


def _says_nothing(message: Message) -> bool:
    says = message["content"].strip() or any(message.get(key) for key in ("tool_calls", *KEYS))
    return message["role"] == "assistant" and not says


def _is_last_answer(messages: Sequence[Message], index: int) -> bool:
    """Whether no turn of the user or of the assistant follows."""
    return not any(message["role"] in ("user", "assistant") for message in messages[index + 1 :])


def _left_out(message: Message, index: int, kind: NotRendered, where: str = "") -> BadRow:
    return BadRow(
        f"{kind}_not_rendered",
        f"message {index} ({message['role']}): the chat template leaves out its {kind}{where} so no token shows "
        f"them. Use a template that writes them, or keep such rows with allow_not_rendered=({kind!r},)",
    )
