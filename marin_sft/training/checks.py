"""Checks of config values that read the same everywhere."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.execution.step import EarlierAttempts, ExecutorStep, InputName, OutputName, UnversionedValue
from marin_sft.nearest import nearest

_BECOMES_TEXT = str | Path | ExecutorStep | InputName | OutputName  # before a config is resolved
_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "text",
    type(None): "None",
    Any: "anything",
    object: "anything",
}


def unresolved(config: Any) -> bool:
    """True while a field is still wrapped in `unversioned`: its checks run again once it is plain."""
    return any(isinstance(value, UnversionedValue) for value in vars(config).values())


def check_fields(of: type, given: Iterable[str], instead: Mapping[str, str]) -> None:
    """Raise ConfigError for a name that is no field of the dataclass `of`. `instead`: of some, what to use for them."""
    known = [field.name for field in dataclasses.fields(of)]
    for name in given:
        if name not in known:
            near = " or ".join(map(repr, nearest(name, known, most=3)))
            advice = instead.get(name) or (f"did you mean {near}?" if near else "see its docstring for those there are")
            raise ConfigError(f"{of.__name__} has no field {name!r}: {advice}")


def check_types(config: Any) -> None:
    """Raise ConfigError, naming the field, unless each field of a dataclass has a value of its annotated type.

    Numbers are finite, and neither True nor False; any collection does where a tuple is wanted; a text may still be a
    step or a place in its output. Protocols are left to those who know them.
    """
    of: Any = type(config)
    for field, annotation in _annotations(of).items():
        value = getattr(config, field)
        if not _fits(value, annotation):
            require(config, field, False, _expected(annotation) + _advice(value))


@functools.cache
def _annotations(of: type) -> dict[str, Any]:
    hints = typing.get_type_hints(of)
    return {field.name: hints[field.name] for field in dataclasses.fields(of)}


def _fits(value: Any, annotation: Any) -> bool:
    kind, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if isinstance(value, UnversionedValue | EarlierAttempts) or kind is Any:
        return True
    if kind in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in parts)
    if kind in (int, float):
        return is_number(value, Integral if kind is int else Real)
    if kind is str:
        return isinstance(value, _BECOMES_TEXT)
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True
    if parts and issubclass(kind, Mapping):
        items = value.items() if isinstance(value, Mapping) else None
        return items is not None and all(_fits(name, parts[0]) and _fits(each, parts[1]) for name, each in items)
    if parts and issubclass(kind, Collection):
        several = isinstance(value, Collection) and not isinstance(value, str | Mapping)
        return several and all(_fits(each, parts[0]) for each in value)
    return isinstance(value, kind)


def _expected(annotation: Any) -> str:
    kind, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind in (types.UnionType, typing.Union):
        told = [part for part in parts if part is not int or float not in parts]
        return " or ".join(dict.fromkeys(map(_expected, told)))
    if kind in _WORDS:
        return _WORDS[kind]
    if parts and issubclass(kind, Mapping):
        return f"a mapping of {_expected(parts[0])} to {_expected(parts[1])}"
    if parts and issubclass(kind, Collection):
        return f"a sequence (list or tuple) of {_expected(parts[0])}"
    return str(getattr(kind, "__name__", kind))


def _advice(value: Any) -> str:
    """For numbers that were read as text."""
    try:
        float(value if isinstance(value, str) else "")
    except ValueError:
        return ""
    return ", got a string: remove the quotes; in YAML write 2.0e-5"


def is_number(value: Any, kind: Any = Real) -> bool:
    """Finite, and neither True nor False."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def require(config: Any, field: str, holds: bool, expected: str) -> None:
    """Raise ConfigError, naming the field, what it is and what was expected, unless `holds`."""
    if not holds:
        raise ConfigError(f"{type(config).__name__}.{field} = {getattr(config, field)!r}: expected {expected}")


def require_pattern(config: Any, field: str, pattern: str) -> None:
    """Raise ConfigError, naming the field, unless `pattern`, which is in it, is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        require(config, field, False, f"a regular expression; {error}")
