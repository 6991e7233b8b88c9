"""A list of messages as people write it -> messages in normal form.

Roles and contents are under `role` and `content`, `from` and `value` (ShareGPT), or the format's columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from marin_sft.data.files import Json
from marin_sft.data.messages.examples import BadRow, Message
from marin_sft.data.messages.tool_calls import can_be_encoded, kind_of, text_of, tool_calls_of, without_nulls
from marin_sft.nearest import nearest

TOOL_CALL = "tool_call"
"""The role of a ShareGPT turn that only calls tools. It becomes an assistant turn."""

ROLES: dict[str, tuple[str, ...]] = {
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "model", "bot", "chatgpt"),
    "system": ("system",),
    "developer": ("developer",),
    "tool": ("tool", "observation", "function_response", "tool_response", "function"),
    "environment": ("environment",),  # what OLMo 3's template calls a tool
    TOOL_CALL: (TOOL_CALL, "function_call"),
}
"""Names of each role in rows. The format may add more."""

ROLE_KEYS, CONTENT_KEYS = ("role", "from"), ("content", "value")
_SYSTEM_ROLES = ("system", "developer")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_REASONING_PARTS = ("reasoning", "thinking")
_TRAIN_KEYS = ("train", "loss_weight", "weight", "trainable")  # ours and axolotl's, LLaMA-Factory's, OpenAI's, others'
_OWN_KEYS = frozenset(("role", "content", *_REASONING_KEYS, "tool_calls", "tool_call_id", "name", "train"))
"""The keys of messages in normal form."""
_READ_KEYS = frozenset((*_OWN_KEYS, *ROLE_KEYS, *CONTENT_KEYS, *_TRAIN_KEYS, "train_detail", "loss", "function_call"))


class MessageFormat(Protocol):
    """What the user says about messages: the part of a `ChatLmDatasetFormat` that is needed here."""

    @property
    def roles(self) -> dict[str, str]:
        """{role name in the rows: role name for the template}."""
        ...

    @property
    def role_keys(self) -> tuple[str, ...]: ...

    @property
    def content_keys(self) -> tuple[str, ...]: ...

    @property
    def default_system(self) -> str | None: ...

    @property
    def drop_system(self) -> bool: ...

    @property
    def train_on(self) -> str: ...


def turns_of(
    value: object, format: MessageFormat, where: str = "messages", speaker: str | None = None
) -> list[Message]:
    """The turns in `value`: a list of messages or, with a `speaker`, a message or a string of theirs.

    Raises:
        BadRow: `empty_dialogue`, `bad_messages`, `null_content`, `bad_content`, `unknown_role`, `bad_tool_call`,
            `unsupported_field`, `invalid_unicode`.
    """
    if speaker and isinstance(value, str):
        return [{"role": speaker, "content": text_of(value, where)}]
    if speaker and isinstance(value, dict):
        return [_turn(value, format, where)]
    if not isinstance(value, list):
        raise BadRow(
            "bad_messages",
            f"{where} is {kind_of(value)}, expected {'a string or ' if speaker else ''}a list of messages",
        )
    if not value:
        raise BadRow("empty_dialogue", f"{where} is an empty list")
    roles = format.roles if (format.role_keys, format.content_keys) == (ROLE_KEYS, CONTENT_KEYS) else {}
    return [_plain_turn(raw, roles) or _turn(raw, format, f"{where}[{index}]") for index, raw in enumerate(value)]


def with_system(turns: list[Message], column: object, format: MessageFormat) -> list[Message]:
    """`turns` with a system turn: their own, else the row's `column`, else the format's default."""
    if format.drop_system:
        turns = [turn for turn in turns if turn["role"] not in _SYSTEM_ROLES]
        column = None
    if column in (None, "") and not format.default_system:
        return turns
    if any(turn["role"] in _SYSTEM_ROLES for turn in turns):
        return turns
    system = text_of(column, "system") if column not in (None, "") else format.default_system
    return [{"role": "system", "content": system}, *turns] if system else turns


def untrained(turns: Sequence[Message]) -> list[Message]:
    """`turns` without training on the assistant, except where a message's own `train` flag says so."""
    return [{"train": False, **turn} if turn["role"] == "assistant" else turn for turn in turns]


def other_keys(message: Message) -> frozenset[str]:
    """The keys of a message that only some templates know."""
    return frozenset(message) - _OWN_KEYS


def without_other_keys(value: object) -> object:
    """A JSON value whose messages keep only the keys that every template knows."""
    if isinstance(value, dict):
        known = _OWN_KEYS if {"role", "content"} <= value.keys() else value.keys()
        return {key: without_other_keys(item) for key, item in value.items() if key in known}
    return [without_other_keys(item) for item in value] if isinstance(value, list) else value


def same_turn(one: Message, other: Message) -> bool:
    """Whether two messages say the same. Other keys, often ids and times, count only for messages that say nothing."""
    says = any(one.get(key) for key in ("content", "tool_calls", *_REASONING_KEYS))
    if not says or len(one) == len(other) == 2:
        return one == other
    return all(one.get(key) == other.get(key) for key in _OWN_KEYS)


def _plain_turn(raw: object, roles: Mapping[str, str]) -> Message | None:
    """`_turn` in a tenth of the time, for messages with only a role and a text, as most are. None for others."""
    if not isinstance(raw, dict) or len(raw) != 2:
        return None
    name, content = raw.get("role"), raw.get("content")
    if name is None:
        name, content = raw.get("from"), raw.get("value")
    if not isinstance(name, str) or not isinstance(content, str) or not can_be_encoded(content):
        return None
    role = roles.get(name)
    return {"role": role, "content": content} if role and role != TOOL_CALL else None


def _turn(raw: object, format: MessageFormat, where: str) -> Message:
    if not isinstance(raw, dict):
        raise BadRow("bad_messages", f"{where} is {kind_of(raw)}, expected an object with a role and a content")
    role, content = _role(raw, format, where), _one_of(raw, format.content_keys, where)
    if role == TOOL_CALL:
        message = {"role": "assistant", "content": "", "tool_calls": tool_calls_of(content, where)}
    else:
        message = {"role": role, **_said(raw, content, f"{where} ({role})")}
    for key in (*_REASONING_KEYS, "tool_call_id", "name"):
        if raw.get(key) is not None:
            message[key] = text_of(raw[key], f"{where}.{key}")
    _require_same({key: str(message[key]).strip() for key in _REASONING_KEYS if message.get(key)}, where)
    if not _READ_KEYS.issuperset(raw):
        message |= _other(raw, format)
    train = _train(raw, where)
    return message if train is None else {**message, "train": train}


def _other(raw: Message, format: MessageFormat) -> Message:
    """The other keys of a message: the template may read them. Values that JSON lacks, such as bytes, are left out."""
    read = _READ_KEYS.union(format.role_keys, format.content_keys)
    kept: Message = {}
    for key, value in raw.items():
        if key not in read and value is not None and isinstance(key, str):
            try:
                kept[key] = value if isinstance(value, str) else without_nulls(value, key, "bad_messages")
            except BadRow:
                continue
    return kept


def _role(raw: Message, format: MessageFormat, where: str) -> str:
    names = {key: raw[key] for key in format.role_keys if raw.get(key) is not None}
    name = next(iter(names.values()), None)
    if len(names) > 1:
        _require_same({key: format.roles.get(name, name) for key, name in names.items()}, where)
    if not isinstance(name, str):
        keys = " or ".join(format.role_keys)
        raise BadRow("bad_messages", f"{where} has {kind_of(name)} as its role, expected a string under {keys}")
    if name not in format.roles:
        near = nearest(name.lower(), format.roles)
        meant = f"; if it means {near[0]!r}, say role_map={ {name[:80]: format.roles[near[0]]} }" if near else ""
        what, expected = f"{where} has the role {name[:80]!r}", f", expected one of {list(format.roles)}"
        raise BadRow("unknown_role", f"{what}{meant}{expected}; see role_map", what + expected)
    return format.roles[name]


def _said(raw: Message, content: object, where: str) -> Message:
    """The content and the calls of a message. A message that calls tools may have no content."""
    spellings = {key: raw[key] for key in ("tool_calls", "function_call") if raw.get(key) not in (None, [], {}, "")}
    if len(spellings) > 1:  # the second is OpenAI's older spelling
        _require_same({key: _called(tool_calls_of(value, f"{where}.{key}")) for key, value in spellings.items()}, where)
    calls = next(iter(spellings.values()), None)
    said: Message = {}
    if isinstance(content, list):
        said = _joined_parts(content, where)
    elif content is not None:
        said = {"content": text_of(content, where, "bad_content")}
    if calls is not None:
        said["tool_calls"] = [*said.get("tool_calls", []), *tool_calls_of(calls, f"{where}.tool_calls")]
    if "content" not in said:
        if "tool_calls" not in said:
            raise BadRow("null_content", f"{where} has no content, expected a string")
        said = {"content": "", **said}
    return said


def _joined_parts(parts: list[Any], where: str) -> Message:
    """Typed parts, `[{"type": "text", "text" | "value": ...}]`. Texts are joined without a space, as templates do."""
    texts, reasoning, calls = [], [], []
    for index, part in enumerate(parts):
        at = f"{where} part {index}"
        kind = part.get("type") or "text" if isinstance(part, dict) else None
        if kind == "text":
            texts.append(text_of(_one_of(part, ("text", "value"), at), at, "bad_content"))
        elif isinstance(kind, str) and kind in _REASONING_PARTS:
            reasoning.append(text_of(_one_of(part, (kind, "text", "value"), at), at, "bad_content"))
        elif kind == TOOL_CALL:
            calls += tool_calls_of(_one_of(part, ("value", TOOL_CALL), at), at)
        else:
            got = kind_of(part) if kind is None else f"of type {str(kind)[:80]!r}"
            raise BadRow("bad_content", f"{at} is {got}, expected an object of type 'text'")
    said: Message = {"content": "".join(texts)} if texts or not calls else {}
    if reasoning:
        said["reasoning_content"] = "".join(reasoning)
    if calls:
        said["tool_calls"] = calls
    return said


def _train(raw: Message, where: str) -> bool | None:
    flags = {key: raw[key] for key in _TRAIN_KEYS if raw.get(key) is not None}
    if isinstance(raw.get("loss"), bool):  # a number here is a measured loss
        flags["loss"] = raw["loss"]
    for key, flag in flags.items():
        if not isinstance(flag, bool | int | float) or flag not in (0, 1):
            raise BadRow("unsupported_field", f"{where}.{key} is {str(flag)[:80]!r}, expected true, false, 1 or 0")
    if len({bool(flag) for flag in flags.values()}) > 1:
        raise BadRow("unsupported_field", f"{where}: {flags} contradict each other")
    if raw.get("train_detail"):
        raise BadRow("unsupported_field", f"{where}.train_detail: parts of a turn cannot be left untrained; use train")
    return next((bool(flag) for flag in flags.values()), None)


def _one_of(raw: Message, keys: Sequence[str], where: str) -> object:
    """The value of `raw` under one of `keys`. Raises BadRow if two of them have different values."""
    given = {key: raw[key] for key in keys if raw.get(key) is not None}
    _require_same(given, where)
    return next(iter(given.values()), None)


def _require_same(given: Mapping[str, object], where: str) -> None:
    """Raise BadRow unless all values are equal: to take one would silently drop the others."""
    first = next(iter(given.values()), None)
    if any(value != first for value in given.values()):
        raise BadRow("ambiguous_format", f"{where}: {' and '.join(given)} say different things; expected one of them")


def _called(calls: list[Json]) -> list[object]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
