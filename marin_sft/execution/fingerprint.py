"""A step's identity: its config as canonical JSON, hashed together with the fingerprints of its inputs.

    payload     = {"schema", "kind", "version", "config", "inputs": [fingerprints]}
    fingerprint = sha256(canonical_json(payload))

Every value counts unless its type (`Resources`), its field (`execution_only`) or `unversioned` leaves it out.
Anything whose text would differ between two processes is an error that names the field; nothing falls back to str().
This module also owns the one walk over configs, `parts_of`, on which identity, references and resolution are built.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import glob
import hashlib
import inspect
import itertools
import json
import math
import pathlib
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from marin_sft.errors import ConfigError
from marin_sft.execution.resources import Resources
from marin_sft.execution.step import (
    EarlierAttempts,
    ExecutorStep,
    InputName,
    OutputName,
    UnversionedValue,
    kind_of,
)
from marin_sft.redaction import shown_value

SCHEMA = 1
Payload = dict[str, Any]
_MARKERS = (ExecutorStep, InputName, OutputName, EarlierAttempts, UnversionedValue, Resources)
_PLAIN = (str, int, float, bool)
_NO_METADATA: Mapping[str, Any] = {}


class Part(NamedTuple):
    """One child of a container in a config: its key, where it lies, its value, its dataclass field's metadata."""

    key: Any
    path: str
    value: Any
    metadata: Mapping[str, Any]


def parts_of(value: Any, path: str) -> list[Part] | None:
    """The children of a dataclass, mapping, list, tuple or set; None for a leaf.

    Raises:
        ConfigError: for a mapping key that is not a string, or a set that cannot be sorted.
    """
    if value is None or type(value) in _PLAIN or isinstance(value, _MARKERS):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [Part(f.name, f"{path}.{f.name}", getattr(value, f.name), f.metadata) for f in dataclasses.fields(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{path}: expected string keys, got the key {key!r} of type {type(key).__name__}")
        return [Part(key, f"{path}.{key}", child, _NO_METADATA) for key, child in value.items()]
    if isinstance(value, list | tuple):
        return [Part(i, f"{path}[{i}]", child, _NO_METADATA) for i, child in enumerate(value)]
    if isinstance(value, set | frozenset):
        try:
            ordered = sorted(value)
        except TypeError as error:
            raise ConfigError(
                f"{path}: expected a set whose elements can be sorted, got {value!r}; use a list"
            ) from error
        return [Part(i, f"{path}[{i}]", child, _NO_METADATA) for i, child in enumerate(ordered)]
    return None


def resolve(value: Any, replace: Callable[[Any], Any], path: str = "config") -> Any:
    """A copy of `value` with every leaf passed through `replace`; containers without a change are kept as they are."""
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


def references(config: Any) -> list[tuple[str, InputName]]:
    """Every use of a step's output in a config, as (where, InputName), in the order of the walk."""
    return [(path, used) for path, used in _input_names(config) if used.step is not None]


def hardcoded_paths(config: Any) -> list[str]:
    """Every path in a config that stands there as `InputName.hardcoded`."""
    return [used.name for _, used in _input_names(config) if used.step is None and used.name is not None]


def _input_names(config: Any) -> list[tuple[str, InputName]]:
    found: list[tuple[str, InputName]] = []

    def visit(value: Any, path: str) -> None:
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


def payload_of(step: ExecutorStep[Any], fingerprint_of: Callable[[ExecutorStep[Any]], str]) -> Payload:
    """The readable form of a step's identity, given the fingerprints of its inputs.

    Raises:
        ConfigError: for a value without a stable text; the message names the step and the field.
    """
    inputs: dict[str, int] = {}  # fingerprint -> its index, in the order of first use

    def index_of(upstream: ExecutorStep[Any]) -> int:
        return inputs.setdefault(fingerprint_of(upstream), len(inputs))

    try:
        kind = kind_of(step.fn)
        config = _canonical(step.config, "config", index_of)
    except ConfigError as error:
        raise ConfigError(f"step '{step.name}' {error}") from None
    if isinstance(config, dict):
        config.pop("$class", None)  # the kind says it already
    return {"schema": SCHEMA, "kind": kind.kind, "version": kind.version, "config": config, "inputs": list(inputs)}


def fingerprint_of_payload(payload: Payload) -> str:
    """sha256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(value: Any, path: str, index_of: Callable[[ExecutorStep[Any]], int]) -> Any:
    parts = parts_of(value, path)
    if parts is None:
        return _canonical_leaf(value, path, index_of)
    children = [(p.key, _canonical(p.value, p.path, index_of)) for p in parts if _counts(p)]
    if isinstance(value, list | tuple):
        return [child for _, child in children]
    if isinstance(value, set | frozenset):
        return {"$set": [child for _, child in children]}
    if isinstance(value, dict):
        # "$" opens our own tags; a key of the user's that starts with it gets a second one
        return {(f"${key}" if key.startswith("$") else key): child for key, child in children}
    return {"$class": type(value).__qualname__, **dict(children)}


def _counts(part: Part) -> bool:
    if part.metadata.get("execution_only") or isinstance(part.value, UnversionedValue | EarlierAttempts | Resources):
        return False
    if "omitted_when" not in part.metadata:
        return True
    value, frozen = part.value, part.metadata["omitted_when"]
    return not (type(value) is type(frozen) and value == frozen)


def _canonical_leaf(value: Any, path: str, index_of: Callable[[ExecutorStep[Any]], int]) -> Any:
    if value is None or isinstance(value, bool | int | str) and not isinstance(value, enum.Enum):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise ConfigError(f"{path}: expected a finite number, got {value!r}")
    if isinstance(value, ExecutorStep):
        value = InputName(value, None)
    if isinstance(value, InputName):
        return _canonical_input(value, index_of)
    if isinstance(value, OutputName):
        return {"$output": value.name}
    if isinstance(value, enum.Enum):
        return {"$enum": f"{type(value).__qualname__}.{value.name}"}
    if isinstance(value, pathlib.PurePath):
        return {"$content": _content_digest(str(value), path)}
    if isinstance(value, datetime.timedelta):
        return {"$seconds": value.total_seconds()}
    if isinstance(value, datetime.date | datetime.time):
        return {"$time": value.isoformat()}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, types.FunctionType):
        return _canonical_function(value, path)
    raise ConfigError(
        f"{path}: expected a value with a stable text (None, bool, int, float, str, bytes, Enum, Path, date, "
        f"timedelta, a module-level function, a dataclass, list, tuple, dict or set of these, or a step), "
        f"got {type(value).__qualname__}; leave it out of identity with unversioned(...) if it cannot change the output"
    )


def _canonical_input(value: InputName, index_of: Callable[[ExecutorStep[Any]], int]) -> Any:
    if value.step is None:
        return {"$path": value.name}
    reference: dict[str, Any] = {"$input": index_of(value.step), "name": value.name}
    return reference if value.block_on_step else {**reference, "nonblocking": True}


def _canonical_function(value: types.FunctionType, path: str) -> Any:
    if "<" in value.__qualname__ or value.__closure__:
        raise ConfigError(f"{path}: expected a module-level function, got {value.__qualname__}; move it to a module")
    return {"$function": value.__qualname__, "source": source_digest(value)}


def settings_of(config: Any) -> dict[str, Any]:
    """The plain values that are no part of the identity, by where they lie: mesh, cadences, micro-batch, and the like.

    Resources are left out: where a step ran is no setting of it. So are secrets: everybody may read what is kept.
    """
    found: dict[str, Any] = {}

    def visit(value: Any, path: str, counts: bool) -> None:
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


@functools.cache
def source_digest(function: Callable[..., Any]) -> str | None:
    """sha256 of a function's source text; None where Python cannot see it (typed at a prompt)."""
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    except (OSError, TypeError):
        return None


def _content_digest(location: str, path: str) -> str:
    """sha256 over the names and bytes of a local file, of all in a directory, or of all that a glob matches."""
    root = pathlib.Path(location)
    if root.exists():
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    else:
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), root.parts)
        files = sorted(p for p in map(pathlib.Path, glob.glob(location, recursive=True)) if p.is_file())
        root = pathlib.Path(*fixed)
        if not files:
            raise ConfigError(
                f"{path}: expected an existing file or directory, or a glob of some, got {location!r} "
                "(a Path counts by content)"
            )
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(root).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def leaf_differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The leaves in which two canonical values differ, as (field, old, new); a leaf on one side only is None there."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = [(f"{path}.{key}".lstrip("."), old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list):
        pad = max(len(old), len(new))
        pairs = [
            (f"{path}[{i}]", *pair) for i, pair in enumerate(zip(_padded(old, pad), _padded(new, pad), strict=True))
        ]
    else:
        return [] if type(old) is type(new) and old == new else [(path, old, new)]
    return [difference for field, a, b in pairs for difference in leaf_differences(a, b, field)]


def _padded(items: Sequence[Any], length: int) -> list[Any]:
    return [*items, *[None] * (length - len(items))]


_FINGERPRINTED = re.compile(r"(?P<name>.+)-[0-9a-f]{10}")


def name_of_directory(directory: str) -> str | None:
    """The step name in `{name}-{fingerprint[:10]}`; None for any other directory name."""
    match = _FINGERPRINTED.fullmatch(directory)
    return match["name"] if match else None
