"""`parts_of`, the one walk over configs. Identity, references, resolution and records all use it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from marin_sft.errors import ConfigError
from marin_sft.execution.resources import Resources
from marin_sft.execution.step import EarlierAttempts, ExecutorStep, InputName, OutputName, UnversionedValue
from marin_sft.redaction import shown_value

_MARKERS = (ExecutorStep, InputName, OutputName, EarlierAttempts, UnversionedValue, Resources, enum.Enum)
_PLAIN = (str, int, float, bool)
_NO_METADATA: Mapping[str, object] = {}


class Part(NamedTuple):
    """One child of a container in a config.

    path: where in the config it is.
    metadata, declared: of a dataclass field, its metadata and declared type.
    """

    key: Any
    path: str
    value: object
    metadata: Mapping[str, object] = _NO_METADATA
    declared: object = None


def parts_of(value: object, path: str) -> list[Part] | None:
    """The children of a dataclass, mapping, list, tuple or set; None for a leaf.

    Raises:
        ConfigError: for a mapping key that is not a string.
    """
    if value is None or type(value) in _PLAIN or isinstance(value, _MARKERS):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [
            Part(f.name, f"{path}.{f.name}", getattr(value, f.name), f.metadata, f.type)
            for f in dataclasses.fields(value)
        ]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{path}: expected string keys, got the key {key!r} of type {type(key).__name__}")
        return [Part(key, f"{path}.{key}", child) for key, child in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [Part(key, f"{path}.{key}", child) for key, child in zip(value._fields, value, strict=True)]
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple):
        return [Part(i, f"{path}[{i}]", child) for i, child in enumerate(value)]
    return None


def resolve(value: Any, replace: Callable[[object], object], path: str = "config") -> Any:
    """A copy of `value` with every leaf passed through `replace`. Containers that do not change are not copied."""
    if isinstance(value, UnversionedValue):
        return resolve(value.value, replace, path)
    parts = parts_of(value, path)
    if parts is None:
        return replace(value)
    new = [resolve(part.value, replace, part.path) for part in parts]
    if all(after is part.value for after, part in zip(new, parts, strict=True)):
        return value
    if isinstance(value, dict):
        return {part.key: after for part, after in zip(parts, new, strict=True)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*new)
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(new)
    init = {f.name for f in dataclasses.fields(value) if f.init}
    return dataclasses.replace(value, **{p.key: after for p, after in zip(parts, new, strict=True) if p.key in init})


def references(config: object) -> list[tuple[str, InputName]]:
    """Every use of a step's output in a config, as (path, InputName), in the order of the walk."""
    return [(path, used) for path, used in _input_names(config) if used.step is not None]


def hardcoded_paths(config: object) -> list[str]:
    """Every `InputName.hardcoded` path in a config."""
    return [used.name for _, used in _input_names(config) if used.step is None and used.name is not None]


def _input_names(config: object) -> list[tuple[str, InputName]]:
    found: list[tuple[str, InputName]] = []

    def visit(value: object, path: str) -> None:
        if isinstance(value, UnversionedValue):
            visit(value.value, path)
        elif isinstance(value, ExecutorStep):
            found.append((path, InputName(value, None)))
        elif isinstance(value, InputName):
            found.append((path, value))
        else:
            for part in parts_of(value, path) or ():
                visit(part.value, part.path)

    visit(config, "config")
    return found


def settings_of(config: object) -> dict[str, object]:
    """The plain values that are not part of the identity, by their path in the config, such as mesh or micro-batch.

    Without resources, which say where a step ran. Without secrets, since everyone may read what is stored.
    """
    found: dict[str, object] = {}

    def visit(value: object, path: str, counts: bool) -> None:
        if isinstance(value, UnversionedValue):
            visit(value.value, path, False)
            return
        parts = parts_of(value, path)
        if parts is None and not counts and isinstance(value, bool | int | float | str | None):
            found[path.removeprefix("config.")] = shown_value(path, value)
        for part in parts or ():
            visit(part.value, part.path, counts and not part.metadata.get("execution_only"))

    visit(config, "config", True)
    return found
