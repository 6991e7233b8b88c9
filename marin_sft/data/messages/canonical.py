"""Example -> the row that is stored between transform and tokenize. `examples_of` reads the same example back."""

from __future__ import annotations

import json

from marin_sft.data.files import Json
from marin_sft.data.messages.examples import BadRow, Dialogue, Example, Message, Preference, Text, TextPreference


def canonical_row(example: Example) -> Json:
    """`{"messages", "tools"?, "chat_template_kwargs"?}`, `{"prompt", "chosen", "rejected", ...}`, `{"text"}` or
    `{"prompt", "completion"}`.

    Raises:
        BadRow: `no_canonical_row` for tokens made elsewhere, segments and ratings, which have no canonical form.
    """
    match example:
        case Dialogue():
            return {"messages": _kept(example.messages), **_template_arguments(example)}
        case Preference():
            sides = {"prompt": example.prompt, "chosen": example.chosen, "rejected": example.rejected}
            return {**{name: _kept(turns) for name, turns in sides.items()}, **_template_arguments(example)}
        case TextPreference():
            return {"prompt": example.prompt, "chosen": example.chosen, "rejected": example.rejected}
        case Text(prompt="", text=text):
            return {"text": text}
        case Text(prompt=prompt, text=text):
            return {"prompt": prompt, "completion": text}
    kind = type(example).__name__
    raise BadRow("no_canonical_row", f"the row holds {kind}, which is used as it is: tokenize the files themselves")


def _template_arguments(example: Dialogue | Preference) -> Json:
    tools = (
        json.dumps(example.tools, ensure_ascii=False) if example.tools and _has_null(example.tools) else example.tools
    )
    arguments = {"tools": tools, "chat_template_kwargs": example.chat_template_kwargs}
    return {name: value for name, value in arguments.items() if value}


def _kept(messages: list[Message]) -> list[Message]:
    """`messages` that are read back unchanged: nulls in the arguments of a call survive only in a JSON string."""
    return [_with_calls_kept(message) if _has_null(message.get("tool_calls", [])) else message for message in messages]


def _with_calls_kept(message: Message) -> Message:
    calls = [{**call, "function": _with_arguments_kept(call["function"])} for call in message["tool_calls"]]
    return {**message, "tool_calls": calls}


def _with_arguments_kept(function: Json) -> Json:
    return {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}


def _has_null(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_null, value.values()))
    return any(map(_has_null, value)) if isinstance(value, list) else value is None
