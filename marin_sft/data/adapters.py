"""How the rows of one dataset are read: what users write in a registry of datasets. Light values.

TransformAdapter            a dialogue, in columns that are named here (Marin's)
PreferenceTransformAdapter  a better and a worse dialogue (Marin's)
FormatAdapter               any shape that `examples_of` knows, detected row by row
UnchangedAdapter            the rows as they are

`canonical(row)` returns the canonical rows of a raw row, or raises BadRow. It drops nothing silently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

from marin_sft.data.files import Json
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.canonical import canonical_row
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.messages.reading import examples_of
from marin_sft.errors import ConfigError

Row: TypeAlias = Json

THINK_TAGS = {"<think>": "<|start_think|>", "</think>": "<|end_think|>"}
"""The tokens that Marin's tokenizer expects around reasoning."""

TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")
"""Columns that are kept with every dialogue."""

_RESERVED = ("id", "source", "messages", "prompt", "chosen", "rejected", "metadata")


class Adapter(Protocol):
    """What the transform step needs from an adapter: one of those below, or a frozen dataclass of your own."""

    def canonical(self, row: Row) -> list[Row]:
        """The canonical rows of `row`, usually one. Raises BadRow."""
        ...


class InputDatasetFormat(Enum):
    """Which columns hold a dialogue.

    SINGLE_COLUMN_MULTI_TURN  one with a list of messages
    INSTRUCTION_RESPONSE      one with a question, one with its answer (or, with `filter_on_key`, a list of answers)
    INSTRUCT_COLUMN_RESPONSE  one with a question, one with a list of answers; the first counts
    INSTRUCT_MSG_RESPONSE     one with a list of a single message, one with the answer to it
    """

    SINGLE_COLUMN_MULTI_TURN = "messages"
    INSTRUCTION_RESPONSE = "instruction_response"
    INSTRUCT_COLUMN_RESPONSE = "instruct_column_response"
    INSTRUCT_MSG_RESPONSE = "instruct_msg_response"


@dataclass(frozen=True)
class TransformAdapter:
    """Rows that hold a dialogue.

    dataset_format: which columns hold the dialogue.
    instruction_column, response_column, conversation_column: their names, see `InputDatasetFormat`.
    role_key: the key of a message's role.
    content_key: the key of a message's text, or of an answer's.
    user_value, assistant_value, system_value, tool_value: role names in the rows. Any other is an error.
    system_column: the system turn of dialogues that have none.
    filter_on_key: of several answers, take the one with the highest value of this key, the first among equals.
    metadata_remap: columns to copy to the canonical row, as {name in the rows: new name}.
    replacements: text to replace in all turns. None: `THINK_TAGS`. {}: nothing.
    extra_metadata_fn: a module-level function from a raw row to more keys of the canonical row.

    Raises:
        ConfigError: a column that `dataset_format` needs is not named, or the canonical row already has a name.
    """

    dataset_format: InputDatasetFormat = InputDatasetFormat.INSTRUCTION_RESPONSE
    instruction_column: str = ""
    response_column: str = ""
    conversation_column: str = "messages"
    role_key: str = "role"
    user_value: str = "user"
    assistant_value: str = "assistant"
    system_value: str = "system"
    tool_value: str = "tool"
    content_key: str = "content"
    system_column: str = ""
    filter_on_key: str = ""
    metadata_remap: dict[str, str] = field(default_factory=dict)
    replacements: dict[str, str] | None = None
    extra_metadata_fn: Callable[[Row], Row] | None = None

    def __post_init__(self) -> None:
        multi_turn = self.dataset_format is InputDatasetFormat.SINGLE_COLUMN_MULTI_TURN
        needed = ("conversation_column",) if multi_turn else ("instruction_column", "response_column")
        for name in needed:
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; expected the name of a column for {self.dataset_format.name}")
        if self.filter_on_key and self.dataset_format is not InputDatasetFormat.INSTRUCTION_RESPONSE:
            raise ConfigError(f"filter_on_key={self.filter_on_key!r} needs dataset_format INSTRUCTION_RESPONSE")
        _refuse_reserved(self.metadata_remap.values(), "metadata_remap")

    def canonical(self, row: Row) -> list[Row]:
        """One `{"messages", "tools"?, "chat_template_kwargs"?, ...}`, the rest from `metadata_remap` and
        `extra_metadata_fn`.

        Raises:
            BadRow: `not_an_object`, `missing_column`, `missing_value`, `unknown_role`, `several_instructions`,
                `no_answer`, or what `examples_of` raises.
        """
        _check_object(row)
        messages = [self._replaced(message) for message in self._with_system(row, self._messages(row))]
        extra = {key: row[key] for key in TEMPLATE_COLUMNS if row.get(key) is not None}
        extra |= {new: row[old] for old, new in self.metadata_remap.items() if row.get(old) is not None}
        extra |= self._extra(row)
        given = {"messages": messages, **{key: extra.pop(key) for key in TEMPLATE_COLUMNS if key in extra}}
        return [{**canonical, **extra} for canonical in _canonical_rows(given, ChatLmDatasetFormat(shape="messages"))]

    def _messages(self, row: Row) -> list[Row]:
        if self.dataset_format is InputDatasetFormat.SINGLE_COLUMN_MULTI_TURN:
            return _list_of_messages(_value(row, self.conversation_column), self.conversation_column, self._renamed)
        question, answer = _value(row, self.instruction_column), _value(row, self.response_column)
        if self.dataset_format is InputDatasetFormat.INSTRUCT_COLUMN_RESPONSE:
            answer = _value(_answers(answer, self.response_column)[0], self.content_key)
        elif self.filter_on_key:
            answer = _value(self._best(_answers(answer, self.response_column)), self.content_key)
        if self.dataset_format is InputDatasetFormat.INSTRUCT_MSG_RESPONSE:
            asked = _list_of_messages(question, self.instruction_column, self._renamed)
            if len(asked) != 1:
                raise BadRow("several_instructions", f"{self.instruction_column} has {len(asked)} messages, expected 1")
            question = asked[0]["content"]
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def _renamed(self, message: Row, where: str) -> Row:
        names = {self.tool_value: "tool", self.system_value: "system"}
        names |= {self.assistant_value: "assistant", self.user_value: "user"}
        role = message.get(self.role_key)
        if not isinstance(role, str) or role not in names:
            raise BadRow(
                "unknown_role", f"{where}: {self.role_key} is {str(role)[:80]!r}, expected one of {list(names)}"
            )
        return {
            **_others(message, self.role_key, self.content_key),
            "role": names[role],
            "content": message.get(self.content_key),
        }

    def _best(self, answers: list[Row]) -> Row:
        """The answer with the highest score; those without a score do not count."""
        scored = [answer for answer in answers if _is_number(answer.get(self.filter_on_key))]
        if not scored:
            raise BadRow("no_answer", f"no answer in {self.response_column} has a number as its {self.filter_on_key}")
        return max(scored, key=lambda answer: float(answer[self.filter_on_key]))

    def _with_system(self, row: Row, messages: list[Row]) -> list[Row]:
        system = row.get(self.system_column) if self.system_column else None
        if not system or any(message["role"] == "system" for message in messages):
            return messages
        return [{"role": "system", "content": system}, *messages]

    def _replaced(self, message: Row) -> Row:
        replacements = THINK_TAGS if self.replacements is None else self.replacements
        if not replacements or not isinstance(message["content"], str):
            return message
        longest_first = sorted(replacements, key=len, reverse=True)
        found = re.compile("|".join(re.escape(old) for old in longest_first))
        return {**message, "content": found.sub(lambda match: replacements[match[0]], message["content"])}

    def _extra(self, row: Row) -> Row:
        if self.extra_metadata_fn is None:
            return {}
        extra = self.extra_metadata_fn(row)
        if not isinstance(extra, dict):
            raise ConfigError(f"extra_metadata_fn gave a {type(extra).__name__}; expected a dict, {{}} for nothing")
        _refuse_reserved(extra, "extra_metadata_fn")
        return extra


@dataclass(frozen=True)
class PreferenceTransformAdapter:
    """Rows that hold a better and a worse dialogue.

    chosen_column, rejected_column: lists of messages, or, with `prompt_column`, the text of an answer.
    role_key, content_key: the keys of a message.
    prompt_column: what both continue, a user's text or a list of messages. Empty: the messages that both begin with.
    """

    chosen_column: str = "chosen"
    rejected_column: str = "rejected"
    role_key: str = "role"
    content_key: str = "content"
    prompt_column: str = ""

    def canonical(self, row: Row) -> list[Row]:
        """One `{"prompt", "chosen", "rejected", "tools"?, "chat_template_kwargs"?}`, the first three lists of messages.

        Raises:
            BadRow: `not_an_object`, `missing_column`, `missing_value`, `bad_messages`, or what `examples_of` raises.
        """
        _check_object(row)
        given = {
            "chosen": self._messages(row, self.chosen_column, "assistant"),
            "rejected": self._messages(row, self.rejected_column, "assistant"),
        }
        if self.prompt_column:
            given["prompt"] = self._messages(row, self.prompt_column, "user")
        given |= {key: row[key] for key in TEMPLATE_COLUMNS if row.get(key) is not None}
        return _canonical_rows(given, ChatLmDatasetFormat(shape="preference"))

    def _messages(self, row: Row, column: str, speaker: str) -> list[Row]:
        value = _value(row, column)
        if isinstance(value, str) and self.prompt_column:
            return [{"role": speaker, "content": value}]
        return _list_of_messages(value, column, self._renamed)

    def _renamed(self, message: Row, where: str) -> Row:
        renamed = {"role": message.get(self.role_key), "content": message.get(self.content_key)}
        return {**_others(message, self.role_key, self.content_key), **renamed}


@dataclass(frozen=True)
class FormatAdapter:
    """Rows in any shape that `examples_of` knows, or that `format` describes."""

    format: ChatLmDatasetFormat = ChatLmDatasetFormat()

    def canonical(self, row: Row) -> list[Row]:
        """The rows that `row` holds. Raises BadRow: what `examples_of` and `canonical_row` raise."""
        return _canonical_rows(row, self.format)


@dataclass(frozen=True)
class UnchangedAdapter:
    """Rows that are kept as they are, for the format of the tokenization step to read."""

    def canonical(self, row: Row) -> list[Row]:
        """Raises BadRow `not_an_object`."""
        _check_object(row)
        return [row]


def _others(message: Row, *read: str) -> Row:
    """The keys of a message that are not `read`: a chat template may use them."""
    return {key: value for key, value in message.items() if key not in read and value is not None}


def _canonical_rows(row: Row, format: ChatLmDatasetFormat) -> list[Row]:
    return [canonical_row(example) for example in examples_of(row, format)]


def _check_object(row: object) -> None:
    if not isinstance(row, dict):
        raise BadRow("not_an_object", f"got a {type(row).__name__}, expected a JSON object")


def _value(row: Row, column: str) -> object:
    if column not in row:
        raise BadRow("missing_column", f"no {column!r}; the keys are {sorted(row)}")
    if row[column] is None:
        raise BadRow("missing_value", f"{column} is null")
    return row[column]


def _list_of_messages(value: object, column: str, renamed: Callable[[Row, str], Row]) -> list[Row]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise BadRow("bad_messages", f"{column} is a {type(value).__name__}, expected a list of messages")
    return [renamed(message, f"{column}[{index}]") for index, message in enumerate(value)]


def _answers(value: object, column: str) -> list[Row]:
    if not isinstance(value, list) or not all(isinstance(answer, dict) for answer in value):
        raise BadRow("no_answer", f"{column} is a {type(value).__name__}, expected a list of objects")
    if not value:
        raise BadRow("no_answer", f"{column} is an empty list")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _refuse_reserved(names: Iterable[str], where: str) -> None:
    taken = sorted(set(names) & set(_RESERVED))
    if taken:
        raise ConfigError(f"{where} makes {taken}, which the canonical row already has; expected other names")
