"""Checks of config values, with the same messages everywhere."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.execution.step import EarlierAttempts, ExecutorStep, InputName, OutputName, UnversionedValue
from marin_sft.nearest import did_you_mean

_OURS = f"{__name__.partition('.')[0]}."
_BECOMES_TEXT = str | Path | ExecutorStep | InputName | OutputName  # before a config is resolved
_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "text",
    type(None): "None",
    Any: "anything",
    object: "anything",
}


_EXAMPLES = {
    "TrackerConfig": "(WandbConfig(project='mine'),), from marin_sft.training.metrics.trackers",
    "LoraConfig": "LoraConfig(r=16, alpha=32), from marin_sft.training.lora_config",
    "EarlyStopping": "EarlyStopping(metric='eval/loss', steps=100, patience=3), from marin_sft.training.stops",
}
"""Values of our own classes, by the name of the class."""


def unresolved(config: object) -> bool:
    """True while a field is wrapped in `unversioned`. The checks run again when all values are plain."""
    return any(isinstance(value, UnversionedValue) for value in vars(config).values())


def check_types(config: object) -> None:
    """Raise ConfigError, naming the field, unless each field of a dataclass has a value of its annotated type.

    Numbers must be finite, and not booleans. A tuple may be any collection. A text may still be a step or a place in
    its output. Protocols are not checked here.
    """
    of: type = type(config)
    for field, annotation in _annotations(of).items():
        value = getattr(config, field)
        if not _fits(value, annotation):
            require(config, field, False, _expected(annotation) + _advice(value, annotation))


@functools.cache
def _annotations(of: type) -> dict[str, object]:
    hints = typing.get_type_hints(of)
    return {field.name: hints[field.name] for field in dataclasses.fields(of)}


def _fits(value: object, annotation: object) -> bool:
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
        if not isinstance(value, Collection) or isinstance(value, str | Mapping):
            return False
        return all(_fits(each, parts[0]) for each in value)
    return isinstance(value, kind)


def _expected(annotation: object) -> str:
    kind, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind in (types.UnionType, typing.Union):
        told = [part for part in parts if part is not int or float not in parts]
        return " or ".join(dict.fromkeys(map(_expected, told)))
    if kind in _WORDS:
        return _WORDS[kind]
    if parts and isinstance(kind, type) and issubclass(kind, Mapping):
        return f"a mapping of {_expected(parts[0])} to {_expected(parts[1])}"
    if parts and isinstance(kind, type) and issubclass(kind, Collection):
        return f"a sequence (list or tuple) of {_expected(parts[0])}"
    return str(getattr(kind, "__name__", kind))


def _advice(value: object, annotation: object) -> str:
    """Advice for numbers that were read as text, and an example of a value of our own classes."""
    for name, example in _EXAMPLES.items():
        if name in str(annotation):
            return f", as in {example}"
    if not isinstance(value, str):
        return ""
    try:
        number = float(value.removesuffix("%"))
    except ValueError:
        return ""
    if value.endswith("%"):
        return f"; {value} is {number / 100:g}"
    yaml = "; in YAML write 2.0e-5" if "e" in value.lower() and "." not in value else ""
    return f", got a string: remove the quotes{yaml}"


def is_number(value: Any, kind: Any = Real) -> bool:
    """Whether `value` is a finite number, and not a boolean."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def require(config: object, field: str, holds: bool, expected: str) -> None:
    """Raise ConfigError with the field, its value and what was expected, unless `holds`."""
    if not holds:
        raise ConfigError(f"{type(config).__name__}.{field} = {getattr(config, field)!r}: expected {expected}")


def require_one_of(config: object, field: str, choices: Collection[str], or_none: bool = False) -> None:
    """Raise ConfigError, naming the field and what it may be, unless its value is one of `choices`, or None."""
    value = getattr(config, field)
    near = did_you_mean(value, choices) if isinstance(value, str) else ""
    expected = f"{'None, or ' if or_none else ''}one of {', '.join(choices)}{near}"
    require(config, field, value in choices or (or_none and value is None), expected)


def require_pattern(config: object, field: str, pattern: str) -> None:
    """Raise ConfigError, naming the field, unless its value `pattern` is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        require(config, field, False, f"a regular expression; {error}")
