"""A Jinja chat template as text around each message, for servers that have no Jinja.

The text is found by rendering, and kept only if, put together, it is what the template gives for several dialogues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Message = Mapping[str, str]


@dataclass(frozen=True)
class Turns:
    """around: by role, the text before and after a message. A template that refuses system messages has none for them.

    begin: the BOS, or nothing. no_system: what comes next in a chat without a system message. prompt: what comes last,
    before an answer.
    """

    begin: str
    no_system: str
    around: Mapping[str, tuple[str, str]]
    prompt: str

    def rendered(self, messages: Sequence[Message]) -> str:
        """With the prompt for an answer."""
        parts = [self.begin, "" if messages[0]["role"] == "system" else self.no_system]
        for message in messages:
            before, after = self.around[message["role"]]
            parts += [before, message["content"], after]
        return "".join([*parts, self.prompt])

    @property
    def texts(self) -> list[str]:
        """All of it."""
        return [self.begin, self.no_system, *(text for pair in self.around.values() for text in pair), self.prompt]


def _says(role: str, text: str) -> Message:
    return {"role": role, "content": text}


_SYSTEM = _says("system", "Speak plainly.")
_CHAT = [_says("user", "What is this?"), _says("assistant", "It is a test."), _says("user", "Why so?")]
_ANSWER = _says("assistant", "Nobody knows.")
_DIALOGUES = [_CHAT[:1], _CHAT, [*_CHAT, _ANSWER, _says("user", "Thanks 2 times")]]


def turns_of(tokenizer: PreTrainedTokenizerFast) -> Turns | None:
    """None: its chat template is not only text around messages, or differs from day to day."""
    template = tokenizer.chat_template
    template = template.get("default", "") if isinstance(template, dict) else template
    if not template or "strftime_now" in template:
        return None
    found = _found(tokenizer)
    if found is None:
        return None
    dialogues = _DIALOGUES + [[_SYSTEM, *each] for each in _DIALOGUES if "system" in found.around]
    same = all(_rendered(tokenizer, each) == found.rendered(each) for each in dialogues)
    return found if same else None


def trims(tokenizer: PreTrainedTokenizerFast, turns: Turns) -> bool:
    """Whether the template takes spaces off messages, which `turns` cannot say."""
    spaced = [_says("user", " spaces \n")]
    return _rendered(tokenizer, spaced) != turns.rendered(spaced)


def _found(tokenizer: PreTrainedTokenizerFast) -> Turns | None:
    asked, closed = _rendered(tokenizer, _CHAT), _rendered(tokenizer, _CHAT, prompted=False)
    answered = _rendered(tokenizer, [*_CHAT, _ANSWER], prompted=False)
    parts = _split(asked, _CHAT)
    if parts is None or closed is None or answered is None:
        return None
    head, between, next_turn, tail = parts
    after_user = closed.rpartition(_CHAT[-1]["content"])[2]
    after_answer = answered.rpartition(_ANSWER["content"])[2]
    if not (tail.startswith(after_user) and between.startswith(after_user) and next_turn.startswith(after_answer)):
        return None
    before_user = next_turn.removeprefix(after_answer)
    if not head.endswith(before_user):
        return None
    head = head[: len(head) - len(before_user)]
    around = {"user": (before_user, after_user), "assistant": (between.removeprefix(after_user), after_answer)}
    bos = tokenizer.bos_token
    begin = bos if bos and head.startswith(bos) else ""
    parts = _split(_rendered(tokenizer, [_SYSTEM, *_CHAT]), [_SYSTEM, *_CHAT])
    if parts is not None and parts[0].startswith(begin) and parts[1].endswith(before_user):
        after = parts[1][: len(parts[1]) - len(before_user)]
        around["system"] = (parts[0].removeprefix(begin), after)
    return Turns(begin, head.removeprefix(begin), around, tail.removeprefix(after_user))


def _split(text: str | None, messages: Sequence[Message]) -> list[str] | None:
    """`text` without the messages, each of which it must have."""
    parts = []
    for message in messages:
        if text is None or message["content"] not in text:
            return None
        part, _, text = text.partition(message["content"])
        parts.append(part)
    return [*parts, text or ""]


def _rendered(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], prompted: bool = True) -> str | None:
    """None: the template refuses the dialogue."""
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompted))
    except TemplateError:
        return None
