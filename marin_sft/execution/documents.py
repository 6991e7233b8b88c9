"""Our own small JSON files, checked as they are read: a bad or full disk, or an editor, may have damaged them.

A dataclass says what a file must contain. Unknown fields are ignored, since a newer version may have written them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import types
import typing
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from marin_sft.errors import DamagedFile
from marin_sft.execution.store import Store

T = TypeVar("T")
JsonObject: TypeAlias = dict[str, Any]  # read from JSON; the reader knows the fields
_NUMBERED = re.compile(r"(\d{6})\.json")


def read_document(
    store: Store, path: str, kind: type[T], advice: str, check: Callable[[T], bool] = lambda document: True
) -> T | None:
    """The document at `path`, or None if there is no file.

    check: whether the values are plausible; it may raise ValueError.

    Raises:
        DamagedFile: with the path, what is wrong, and `advice`.
    """
    try:
        data = store.read(path)
    except IsADirectoryError:
        raise DamagedFile(f"{path}: expected a file, got a directory; {advice}") from None
    if data is None:
        return None
    try:
        document = as_document(kind, _parse(data))
        if not check(document):
            raise ValueError("values that do not match its name")
    except (ValueError, OverflowError, RecursionError) as error:
        found = f"{len(data)} bytes with {error}" if data else "an empty file"
        raise DamagedFile(f"{path}: expected the JSON that marin_sft wrote there, got {found}; {advice}") from None
    return document


def _parse(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError as error:  # also for invalid UTF-8
        raise ValueError(f"invalid JSON: {error}") from None


def as_document(kind: type[T], value: object) -> T:
    """A JSON value as a `kind`: a dataclass, a plain type, or a tuple, dict or union of these.

    Raises:
        ValueError: the value does not fit; names the field.
    """
    return _as(kind, value, "")


def _as(kind: Any, value: object, field: str) -> Any:
    if kind in (Any, object):
        return value
    if dataclasses.is_dataclass(kind):
        return _as_dataclass(kind, value, field)
    origin, parts = _origin(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in parts:
            return None
        (kind,) = (part for part in parts if part is not type(None))
        return _as(kind, value, field)
    if origin is tuple and isinstance(value, list):
        return tuple(_as(parts[0], item, f"{field}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        if parts[1] in (Any, object):
            return value
        return {key: _as(parts[1], item, f"{field}.{key}") for key, item in value.items()}
    if origin is float and (type(value) is int or type(value) is float):
        return float(value)
    if origin not in (tuple, dict, float) and type(value) is origin:
        return value
    raise ValueError(f"{field.lstrip('.') or 'a value'} of {type(value).__name__}, not {origin.__name__}")


def _as_dataclass(kind: Any, value: object, field: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{field.lstrip('.') or 'a value'} of {type(value).__name__}, not an object")
    found = {}
    for name, annotation, needed in _fields(kind):
        if name in value:
            found[name] = _as(annotation, value[name], f"{field}.{name}")
        elif needed:
            raise ValueError(f"no {f'{field}.{name}'.lstrip('.')}")
    return kind(**found)


@functools.cache
def _origin(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(kind) or kind, typing.get_args(kind)


@functools.cache
def _fields(kind: Any) -> tuple[tuple[str, Any, bool], ...]:
    """The name and type of each field, and whether it is required."""
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return tuple(
        (field.name, hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
    )


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_json(document: Any) -> bytes:
    """What `read_document` reads back."""
    return canonical_json(dataclasses.asdict(document)).encode()


def numbers_of(names: list[str]) -> list[int]:
    """The numbers in names such as 000003.json, sorted."""
    return sorted(int(match[1]) for match in map(_NUMBERED.fullmatch, names) if match)
