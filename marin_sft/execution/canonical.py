"""The values of a config as canonical JSON, the basis of a step's identity.

Every value counts unless its type (`Resources`), its field (`execution_only`) or `unversioned` excludes it. A value
whose text could differ between two processes is an error that names the field. Nothing falls back to str().
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import math
import pathlib
import re
import types
from collections.abc import Callable
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.execution.configs import Part, parts_of, references
from marin_sft.execution.contents import LocalContent, kind_in_name, read_content
from marin_sft.execution.documents import canonical_json
from marin_sft.execution.resources import Resources
from marin_sft.execution.source import canonical_code, canonical_function, name_of
from marin_sft.execution.step import AnyStep, EarlierAttempts, ExecutorStep, InputName, OutputName, UnversionedValue
from marin_sft.redaction import without_signature

_EXACT = 2**53  # floats represent all integers up to here exactly
_URL = re.compile(r"(gs|s3|https?)://[\w.@:%-]+/\S*")  # a signature says who may read a file, not what is in it


class Canonical:
    """Converts the values of one config to JSON. The local files that the config names are added to `contents`."""

    def __init__(self, fingerprint_of: Callable[[AnyStep], str], contents: list[LocalContent]) -> None:
        self._fingerprint_of = fingerprint_of
        self._contents = contents
        self._functions: list[object] = []  # being described: a function may refer to itself, e.g. through a table

    def config(self, value: object) -> object:
        """The whole config of a step, without the name of its class: the step's kind stands for that."""
        parts = parts_of(value, "config") if dataclasses.is_dataclass(value) else None
        return self.value(value, "config") if parts is None else dict(self._children(parts))

    def value(self, value: object, path: str) -> object:
        parts = parts_of(value, path)
        if parts is None:
            return self._leaf(value, path)
        children = self._children(parts)
        if isinstance(value, set | frozenset):
            return {"$set": sorted((child for _, child in children), key=canonical_json)}
        if isinstance(value, dict):
            # Our own tags start with "$". A user's key that starts with it gets a second one.
            return {(f"${key}" if key.startswith("$") else key): child for key, child in children}
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return [child for _, child in children]
        return {"$class": name_of(type(value)), **self.code(type(value), path), **dict(children)}

    def _children(self, parts: list[Part]) -> list[tuple[Any, object]]:
        return [(part.key, self.value(part.value, part.path)) for part in map(_as_declared, parts) if _counts(part)]

    def code(self, of: type, path: str) -> dict[str, object]:
        return self._once(of, lambda: canonical_code(of, path, self._referred)) or {}

    def _once(self, thing: object, describe: Callable[[], dict[str, object]]) -> dict[str, object] | None:
        """None if `thing` is being described already."""
        if thing in self._functions:
            return None
        self._functions.append(thing)
        try:
            return describe()
        finally:
            self._functions.pop()

    def _referred(self, value: object, path: str) -> object:
        """A value that a function in the config refers to."""
        if references(value):
            raise ConfigError(f"{path}: expected a plain value, got a step")
        return self.value(value, path)

    def _leaf(self, value: object, path: str) -> object:
        if isinstance(value, enum.Enum):
            return {"$enum": f"{name_of(type(value))}.{value.name}", "value": self.value(value.value, path)}
        if isinstance(value, str):
            return without_signature(value) if _URL.fullmatch(value) else value
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            if math.isfinite(value):
                return value
            raise ConfigError(f"{path}: expected a finite number, got {value!r}")
        if isinstance(value, ExecutorStep):
            value = InputName(value, None)
        if isinstance(value, InputName):
            return self._input(value)
        if isinstance(value, OutputName):
            return {"$output": value.name}
        if isinstance(value, pathlib.PurePath):
            return self._content(str(value), path)
        if isinstance(value, datetime.timedelta):
            return {"$seconds": value.total_seconds()}
        if isinstance(value, datetime.date | datetime.time):
            return {"$time": value.isoformat()}
        if isinstance(value, bytes):
            return {"$bytes": value.hex()}
        if isinstance(value, types.FunctionType):
            described = self._once(value, lambda: canonical_function(value, path, self._referred))
            return {"$name": name_of(value)} if described is None else described
        raise ConfigError(
            f"{path}: expected a value with a stable text form (None, bool, int, float, str, bytes, Enum, Path, date, "
            f"timedelta, a module-level function, a dataclass, list, tuple, dict or set of these, or a step), "
            f"got {type(value).__qualname__}; if it cannot change the output, exclude it from "
            "identity with unversioned(...)"
        )

    def _input(self, value: InputName) -> dict[str, object]:
        if value.step is None:
            return {"$path": value.name}
        reference: dict[str, object] = {"$input": self._fingerprint_of(value.step), "name": value.name}
        if value.is_optional:
            reference["optional"] = True
        return reference if value.block_on_step else {**reference, "nonblocking": True}

    def _content(self, location: str, path: str) -> dict[str, str]:
        content = read_content(location, path)
        self._contents.append(content)
        kind = kind_in_name(location)
        return {"$content": content.digest} if kind is None else {"$content": content.digest, "suffix": kind}


def _counts(part: Part) -> bool:
    if part.metadata.get("execution_only") or isinstance(part.value, UnversionedValue | EarlierAttempts | Resources):
        return False
    if "omitted_when" not in part.metadata:
        return True
    value, frozen = part.value, part.metadata["omitted_when"]
    return not (type(value) is type(frozen) and value == frozen)


def _as_declared(part: Part) -> Part:
    """In a field declared as float, 1 counts as 1.0. Elsewhere the two differ: 1 may mean one step, 1.0 all of them."""
    return part._replace(value=_widened(part.value)) if _declares_floats(part.declared) else part


@functools.cache
def _declares_floats(declared: object) -> bool:
    words = set(re.findall(r"\w+", declared if isinstance(declared, str) else str(declared)))
    return "float" in words and "int" not in words


def _widened(value: object) -> object:
    if type(value) is int and abs(value) <= _EXACT:
        return float(value)
    if isinstance(value, dict):
        return {key: _widened(item) for key, item in value.items()}
    if type(value) is list or type(value) is tuple:
        return type(value)(map(_widened, value))
    return value
