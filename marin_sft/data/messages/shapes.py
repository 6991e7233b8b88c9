"""The shapes of rows: the keys that identify them, and their readers. To add a shape, add a line to SHAPES."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from marin_sft.data.files import Json
from marin_sft.data.messages.dialogues import (
    Fields,
    may_rate,
    rated,
    read_completion,
    read_completion_as_chat,
    read_instruction,
    read_messages,
    read_multiple_choice,
    read_question,
    read_segments,
    read_text,
)
from marin_sft.data.messages.examples import Example
from marin_sft.data.messages.preferences import read_preference, read_ranked
from marin_sft.data.messages.pretokenized import UNCLEAR_MASKS, read_tokens
from marin_sft.data.messages.turns import MessageFormat


class Slot(NamedTuple):
    """A value of a row: `field` is its name for the reader, `keys` its possible keys in the row."""

    field: str
    keys: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Slot:
        """ "a" is the key a; "a|b" is either, known as a; "f=a|b" is either, known as f."""
        field, _, keys = text.rpartition("=")
        alternatives = tuple(keys.split("|"))
        return cls(field or alternatives[0], alternatives)


@dataclass(frozen=True)
class Shape:
    """One shape of rows.

    needs: keys that a row must have (see `Slot.of`).
    takes: keys that a row may have. Others are ignored.
    rank: of the shapes that fit a row, only those with the highest rank count.
    named_only: used only if the format names it: in most rows, its keys mean something else.
    of_rated_rows: only for rated rows.
    """

    name: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    read: Callable[[Fields, MessageFormat], Example | list[Example]]
    about: str
    aliases: tuple[str, ...] = ()
    rank: int = 0
    named_only: bool = False
    of_rated_rows: bool = False

    @functools.cached_property
    def needed(self) -> tuple[Slot, ...]:
        return tuple(Slot.of(text) for text in self.needs)

    @functools.cached_property
    def slots(self) -> tuple[Slot, ...]:
        return (*self.needed, *(Slot.of(text) for text in self.takes))

    @functools.cached_property
    def keys(self) -> frozenset[str]:
        return frozenset(key for slot in self.slots for key in slot.keys)


def is_rated(row: Json) -> bool:
    """Whether `row` says how good it is. A bool `label` or `desirable` is a rating; so is any `kto_tag`."""
    return "kto_tag" in row or any(isinstance(row.get(key), bool) for key in ("label", "desirable"))


def may_be_rated(row: Json) -> bool:
    """Whether the `label` of `row` may be a rating, from a file format without booleans. It may also be a class."""
    return not is_rated(row) and may_rate(row.get("label"))


_MESSAGES = "messages|conversations|conversation"
_INSTRUCTION = ("instruction|INSTRUCTION", "output|response|answer|RESPONSE")
_PAIR = ("chosen|chosen_messages|chosen_response|accepted", "rejected|rejected_messages|rejected_response")
_PROMPT = ("prompt", "instruction|question", "input")
_MASKS = ("labels", "completion_mask", "assistant_masks", "loss_weights", "attention_mask", *UNCLEAR_MASKS)
_LABEL = "label|kto_tag|desirable"
_CHAT = ("system|system_prompt", "tools", "chat_template_kwargs")

# fmt: off
SHAPES = (
    Shape("tokens", ("input_ids",), _MASKS, read_tokens,
          "ids and masks made elsewhere", rank=1),
    Shape("messages", (_MESSAGES,), _CHAT, read_messages,
          "a list of {role, content} or {from, value}", ("openai", "sharegpt", "conversations", "conversation")),
    Shape("alpaca", _INSTRUCTION, ("input|context", "history", *_CHAT), read_instruction,
          "an instruction, perhaps an input, and an output", ("instruction", "gpteacher", "dolly", "oasst")),
    Shape("prompt_response", ("instruction=prompt", "output=response"), ("input", "history", *_CHAT), read_instruction,
          "what the user says and the response to it"),
    Shape("question_answer", ("question", "answer|response"), ("context|article", *_CHAT), read_question,
          "a question, perhaps its context, and an answer", ("orca", "context_qa")),
    Shape("prompt_completion", ("prompt", "completion|generation"), _CHAT, read_completion,
          "two strings: text, and only the completion is trained; lists of messages: a chat", ("metharme",)),
    Shape("input_output", ("prompt=input", "completion=output"), _CHAT, read_completion,
          "like prompt_completion"),
    Shape("segments", ("segments",), (), read_segments,
          "pieces of text {text, label}, each trained or not"),
    Shape("preference", _PAIR, (_MESSAGES, *_PROMPT, "history", *_CHAT), read_preference,
          "a chosen and a rejected answer, with all that precedes them or after a prompt", ("dpo", "orpo")),
    Shape("ranked", ("prompt", "answers"), _CHAT, read_ranked,
          "answers {answer, rank}: the best against each worse one", ("nectar",)),
    Shape("rated", (_MESSAGES, _LABEL), _CHAT, rated(read_messages),
          "messages, and whether they are good", ("kto",), of_rated_rows=True),
    Shape("rated_completion", ("prompt", "completion|generation", _LABEL), _CHAT, rated(read_completion_as_chat),
          "a prompt and a completion, and whether it is good", of_rated_rows=True),
    Shape("rated_input_output", ("prompt=input", "completion=output", _LABEL), _CHAT, rated(read_completion_as_chat),
          "like rated_completion", of_rated_rows=True),
    Shape("rated_alpaca", (*_INSTRUCTION, _LABEL), ("input|context", "history", *_CHAT), rated(read_instruction),
          "like alpaca, and whether the output is good", of_rated_rows=True),
    Shape("rated_response", ("instruction=prompt", "output=response", _LABEL), ("input", "history", *_CHAT),
          rated(read_instruction), "like prompt_response, and whether the response is good", of_rated_rows=True),
    Shape("rated_answer", ("question", "answer|response", _LABEL), ("context|article", *_CHAT), rated(read_question),
          "like question_answer, and whether the answer is good", of_rated_rows=True),
    Shape("question_output", ("question", "answer=output"), ("context|article", *_CHAT), read_question,
          "like question_answer", rank=-1),
    Shape("prompt_output", ("instruction=prompt", "output|answer"), ("input", "history", *_CHAT), read_instruction,
          "like prompt_response", rank=-1),
    Shape("rated_question_output", ("question", "answer=output", _LABEL), ("context|article", *_CHAT),
          rated(read_question), "like question_output, and whether the output is good", rank=-1, of_rated_rows=True),
    Shape("rated_prompt_output", ("instruction=prompt", "output|answer", _LABEL), ("input", "history", *_CHAT),
          rated(read_instruction), "like prompt_output, and whether the output is good", rank=-1, of_rated_rows=True),
    Shape("text", ("text",), (), read_text,
          "plain text, all of it trained", ("completion",), rank=-2),
    Shape("jeopardy", ("instruction=question", "output=answer"), ("input=category", *_CHAT), read_instruction,
          "a question, its category below it, and an answer", named_only=True),
    Shape("multiple_choice", ("question", "choices"), ("solution", "explanation", *_CHAT), read_multiple_choice,
          "a question, its choices below it, and the solution", ("explainchoice",), named_only=True),
    Shape("summary", ("instruction=article", "output=summary"), _CHAT, read_instruction,
          "an article and its summary", ("summarizetldr",), named_only=True),
)
# fmt: on

SHAPE_BY_NAME = {name: shape for shape in SHAPES for name in (shape.name, *shape.aliases)}
KEYS = frozenset(key for shape in SHAPES for key in shape.keys)
