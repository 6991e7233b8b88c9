"""Tools and tool calls in any common spelling -> OpenAI's form, with arguments as objects.

JSON strings are parsed once, and the order of keys is kept. Arrow fills missing keys of a struct with nulls, so null
keys of objects are left out at any depth. Nulls in a JSON string are the author's own, and stay.
"""

from __future__ import annotations

import json
from typing import Any

from marin_sft.data.files import Json
from marin_sft.data.messages.examples import BadRow

ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")  # OpenAI's, Llama's, LangChain's, Anthropic's

_MAX_DEPTH = 64


def text_of(value: object, where: str, reason: str = "bad_messages") -> str:
    """`value`, if it is a string that can be tokenized.

    Raises:
        BadRow: `reason`, or `invalid_unicode` for a lone surrogate, which no tokenizer takes.
    """
    if not isinstance(value, str):
        raise BadRow(reason, f"{where} is {kind_of(value)}, expected a string")
    if not can_be_encoded(value):
        at = next(i for i, character in enumerate(value) if not can_be_encoded(character))
        raise BadRow("invalid_unicode", f"{where}: a lone surrogate at character {at}")
    return value


def can_be_encoded(text: str) -> bool:
    """Whether `text` is valid Unicode, without lone surrogates."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def kind_of(value: object) -> str:
    """The JSON name of a value's type, with an article."""
    names = {type(None): "null", bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number"
    return names.get(type(value), f"a {type(value).__name__}")


def without_nulls(value: object, where: str, reason: str, depth: int = 0) -> Any:
    """A JSON value without the null keys of its objects. Raises BadRow for anything but JSON."""
    if depth > _MAX_DEPTH:
        raise BadRow(reason, f"{where} is nested more than {_MAX_DEPTH} deep")
    if isinstance(value, dict):
        present = {text_of(key, f"a key of {where}", reason): v for key, v in value.items() if v is not None}
        return {key: without_nulls(v, where, reason, depth + 1) for key, v in present.items()}
    if isinstance(value, list):
        return [without_nulls(v, where, reason, depth + 1) for v in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return text_of(value, where, reason)


def tools_of(value: object) -> list[Json] | None:
    """The tools of a row, given as a list or as a JSON string of one. None if there are none.

    A bare function description is wrapped in `{"type": "function", "function": ...}`, as templates expect it and
    servers pass it. Raises BadRow `bad_tools`.
    """
    tools = _json_of(value, "tools", "bad_tools") if value else None
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("bad_tools", f"tools is {kind_of(tools)}, expected a list of objects, or a JSON string of one")
    return [tool if "name" not in tool or "type" in tool else {"type": "function", "function": tool} for tool in tools]


def tool_calls_of(value: object, where: str) -> list[Json]:
    """Calls as `{"type": "function", "function": {"name", "arguments": {...}}, "id"?}`.

    `value`: a call, a list of calls, or a JSON string of either. Raises BadRow `bad_tool_call`.
    """
    calls, written = _json_of(value, where, "bad_tool_call"), isinstance(value, str)
    return [_call(call, where, written) for call in (calls if isinstance(calls, list) else [calls])]


def _call(call: Any, where: str, written: bool) -> Json:
    """`written`: the call comes from a JSON string, so its nulls stay."""
    written = written or isinstance(call, str)
    call = _json_of(call, where, "bad_tool_call", written)
    if isinstance(call, dict) and "function" not in call:
        named = {key: value for key, value in call.items() if key not in ("id", "type")}
        call = {**{key: value for key, value in call.items() if key not in named}, "function": named}
    function = call.get("function") if isinstance(call, dict) else None
    if isinstance(function, dict):  # some rows have the arguments next to it
        function = {**{key: call[key] for key in ARGUMENT_KEYS if key in call}, **function}
        call = {key: value for key, value in call.items() if key not in ARGUMENT_KEYS}
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("bad_tool_call", f"{where}: expected an object with a `name` and `arguments`, got {_short(call)}")
    key = _key_of_arguments(function, where)
    arguments = _json_of(function.get(key) or {}, f"{where}: {key} of {function['name']}", "bad_tool_call", written)
    if not isinstance(arguments, dict):
        raise BadRow(
            "bad_tool_call", f"{where}: {key} of {function['name']} is {kind_of(arguments)}, expected an object"
        )
    kept = {name: value for name, value in function.items() if name != key}
    return {"type": "function", **call, "function": {**kept, "arguments": arguments}}


def _key_of_arguments(function: Json, where: str) -> str:
    """The key of the arguments in `function`. Raises BadRow if several keys, or an unknown one, may hold them."""
    given = [key for key in ARGUMENT_KEYS if function.get(key) not in (None, "")]
    filled = [key for key in given if function[key] not in ({}, "{}")]
    if "arguments" in filled:  # then `parameters` may be the tool's schema
        filled = [key for key in filled if not _is_schema(function[key])]
    differ = any(function[key] != function[filled[0]] for key in filled[1:])
    if differ or (filled and "arguments" in given and "arguments" not in filled):
        raise BadRow(
            "bad_tool_call",
            f"{where}: the call of {function['name']} has both {' and '.join(given)}; expected one, `arguments`",
        )
    unknown = [key for key, value in function.items() if key not in ARGUMENT_KEYS and _may_be_arguments(value)]
    if not given and unknown:
        raise BadRow(
            "bad_tool_call",
            f"{where}: the call of {function['name']} has no `arguments`, but {', '.join(map(repr, unknown))}; "
            f"expected its arguments under one of {', '.join(ARGUMENT_KEYS)}",
        )
    return (filled or given or ["arguments"])[0]


def _is_schema(value: object) -> bool:
    return isinstance(value, dict) and (value.get("type") == "object" or "properties" in value)


def _may_be_arguments(value: object) -> bool:
    return bool(value) and (isinstance(value, dict) or (isinstance(value, str) and value.lstrip().startswith("{")))


def _json_of(value: object, where: str, reason: str, written: bool = False) -> Any:
    """`value`, parsed if it is a JSON string. `written`: it is a part of such a string itself."""
    if not isinstance(value, str):
        checked = without_nulls(value, where, reason)
        return value if written else checked
    try:
        parsed = json.loads(text_of(value, where, reason))
    except (ValueError, RecursionError) as error:
        raise BadRow(reason, f"{where}: expected JSON ({error}), got {_short(value)}") from None
    without_nulls(parsed, where, reason)  # only to check it: these nulls stay
    return parsed


def _short(value: object) -> str:
    return repr(value)[:80]
