"""The identity of functions and classes in a config: their names, their source, and what the source refers to in its
own module. What it uses from other modules counts by name.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import inspect
import json
import os
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.execution.step import Body

Canonical = Callable[[object, str], object]  # a value and its path in the config -> its canonical JSON

_OURS = __name__.partition(".")[0]
_ABSENT = object()


@functools.cache
def source_digest(function: Callable[..., object]) -> str | None:
    """sha256 of a function's source text; None if Python has no source, e.g. at a prompt."""
    code = getattr(function, "__code__", function)
    if getattr(code, "co_filename", None) == "<string>":
        return None  # since 3.13, inspect may return the text of `python -c` for code from exec
    try:
        text = _source_of_body(function) if isinstance(function, Body) else inspect.getsource(function)
    except (OSError, TypeError):
        return None
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def check_exists(function: Callable[..., object]) -> None:
    """Raise ConfigError if a body does not exist. Imports the packages around its module, but not the module."""
    if isinstance(function, Body):
        _text_from(function)


def _source_of_body(body: Body) -> str | None:
    """The function's text, as from `inspect.getsource`; None if its module has no source."""
    text = _text_from(body)
    return None if text is None else "".join(inspect.getblock(text.splitlines(keepends=True)))


@functools.cache
def _text_from(body: Body) -> str | None:
    """The module's text from the function on; None if there is no source."""
    try:
        spec = find_spec(body.module)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise ConfigError(
            f"body {body.path!r}: no module {body.module!r}; expected 'module:function', with a module on Python's path"
        )
    source_of = getattr(spec.loader, "get_source", None)
    text = source_of(body.module) if source_of else None
    if text is None:
        return None
    found = re.search(rf"^(@.*\n)*(async )?def {body.name}\b", text, re.MULTILINE)
    if found is None:
        raise ConfigError(f"body {body.path!r}: {spec.origin} has no function {body.name!r} at its top level")
    return text[found.start() :]


def name_of(thing: Any) -> str:
    """`module.Name` of a class or function, where `module` is the last part of its module's name.

    A script is `__main__` if it is run, and may have parents if it is imported; the last part is the same. Our own
    classes and functions count by name alone, so that they may move between our modules.
    """
    module = getattr(thing, "__module__", None) or ""
    name = getattr(thing, "__qualname__", None) or thing.__name__
    if module.partition(".")[0] == _OURS:
        return name
    if module == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        module = os.path.splitext(os.path.basename(file))[0] if file else module
    return f"{module.rpartition('.')[2]}.{name}"


def canonical_function(function: types.FunctionType, path: str, canonical: Canonical) -> dict[str, object]:
    """A function in a config: its name, source, defaults, and what it refers to.

    Raises:
        ConfigError: it is a lambda or closure, has no source, or refers to a value without a stable text form.
    """
    if "<" in function.__qualname__ or function.__closure__:
        raise ConfigError(f"{path}: expected a module-level function, got {function.__qualname__}; move it to a module")
    references = _References(f"{path}: {function.__qualname__}", function.__module__, function.__globals__, canonical)
    return {"$function": function.__qualname__, **references.described(function)}


def canonical_code(of: type, path: str, canonical: Canonical) -> dict[str, object]:
    """The source of a user's class whose instance is in a config, and what it refers to.

    Empty for a class without methods, which counts by its fields, and for a library's class, which counts by name.
    """
    described = {}
    for cls in _classes_with_methods(of):
        names = getattr(next(_functions_in(cls), None), "__globals__", {})
        references = _References(f"{path}: {cls.__qualname__}", cls.__module__, names, canonical)
        described[name_of(cls)] = references.described(cls)
    return {"$code": described} if described else {}


class _References:
    """What a function or class refers to in its own module, directly and indirectly.

    where: the start of error messages.
    """

    def __init__(self, where: str, module: str, names: dict[str, object], canonical: Canonical) -> None:
        self._where = where
        self._module = module
        self._globals = names
        self._canonical = canonical
        # By name in the module. Digests only, since the values may be long or secret.
        self._found: dict[str, str] = {}
        self._seen: set[int] = set()
        self._open: list[types.CodeType] = []

    def described(self, thing: types.FunctionType | type) -> dict[str, object]:
        own = self._value(thing, thing.__name__)
        while self._open:
            for name in _globals_of(self._open.pop()):
                value = self._globals.get(name, _ABSENT)
                if name not in self._found and value is not _ABSENT:  # else it is a builtin
                    self._found[name] = ""  # marks it as visited while its own references are followed
                    self._found[name] = _digest(self._value(value, name))
        return {**own, **({"refers_to": self._found} if self._found else {})}

    def _value(self, value: object, name: str) -> Any:
        if isinstance(value, dict | list | tuple | functools.partial):
            return self._several(value, name)
        if not isinstance(value, types.FunctionType | type):
            value = getattr(value, "__wrapped__", value)  # e.g. of functools.cache
        if isinstance(value, types.FunctionType):
            return self._function(value, name)
        if isinstance(value, types.GenericAlias | types.UnionType) or type(value).__module__ == "typing":
            return {"$type": str(value)}
        if isinstance(value, type):
            return self._class(value, name)
        if isinstance(value, types.ModuleType):
            return {"$module": value.__name__.rpartition(".")[2]}
        if isinstance(value, types.BuiltinMethodType | types.MethodType) and not inspect.ismodule(value.__self__):
            return {"$method": value.__name__, "of": self._value(value.__self__, name)}
        if isinstance(value, re.Pattern):
            return {"$pattern": value.pattern, "flags": value.flags}
        if type(value).__module__ == "logging":
            return {"$name": name_of(type(value))}
        if callable(value) and hasattr(value, "__name__"):
            return {"$name": name_of(value)}
        return self._plain(value, name)

    def _several(self, value: Any, name: str) -> Any:
        if isinstance(value, functools.partial):
            return {"$partial": [self._value(part, name) for part in (value.func, value.args, value.keywords)]}
        if isinstance(value, dict):
            pairs = ([self._value(key, name), self._value(item, name)] for key, item in value.items())
            return sorted(pairs, key=_digest)
        return [self._value(item, name) for item in value]

    def _function(self, value: types.FunctionType, name: str) -> dict[str, object]:
        if value.__globals__ is not self._globals or id(value) in self._seen:
            return {"$name": name_of(value)}
        self._seen.add(id(value))
        self._open.append(value.__code__)
        bound = {
            "defaults": value.__defaults__,
            "keywords": value.__kwdefaults__,
            "closure": [cell.cell_contents for cell in value.__closure__ or ()],
        }
        made_with = {key: _digest(self._value(item, f"{name} ({key})")) for key, item in bound.items() if item}
        return {"source": self._source(value.__code__, name), **made_with}

    def _class(self, value: type, name: str) -> dict[str, object]:
        if value.__module__ != self._module or id(value) in self._seen:
            return {"$name": name_of(value)}
        self._seen.add(id(value))
        self._open += [function.__code__ for function in _functions_in(value)]
        bases = [self._value(base, base.__name__) for base in value.__bases__ if base is not object]
        return {"source": self._source(value, name), **({"bases": bases} if bases else {})}

    def _plain(self, value: object, name: str) -> object:
        try:
            if isinstance(value, os.PathLike) and os.path.isdir(value):
                raise ConfigError(f"{name}: expected a file, got the directory {os.fspath(value)!r}")
            return self._canonical(value, name)
        except ConfigError as error:
            what = str(error).partition(";")[0]
            raise ConfigError(
                f"{self._where} refers to a value that cannot be part of its identity: {what}. Create the value inside "
                "the function, or import it from another module, so that it counts by name"
            ) from None

    def _source(self, thing: Any, name: str) -> str:
        digest = source_digest(thing)
        if digest is None:
            raise ConfigError(
                f"{self._where}: the source of {name} is part of the identity but cannot be read; put it into a file"
            )
        return digest


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _globals_of(code: types.CodeType) -> Iterator[str]:
    """The global names that a function looks up, including in functions and classes defined inside it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_of(constant)


@functools.cache
def _classes_with_methods(of: type) -> tuple[type, ...]:
    """The class and its bases, without those of libraries; empty if the only method is `__post_init__`."""
    own = tuple(cls for cls in of.__mro__ if not _is_library(cls.__module__))
    has_methods = any(function.__name__ != "__post_init__" for cls in own for function in _functions_in(cls))
    return own if has_methods else ()


def _functions_in(cls: type) -> Iterator[types.FunctionType]:
    """The functions in a class's body, without those that `dataclass` generates."""
    for value in vars(cls).values():
        if isinstance(value, property):
            parts = [value.fget, value.fset, value.fdel]
        else:
            parts = [getattr(value, "__func__", None) or getattr(value, "func", None) or inspect.unwrap(value)]
        for part in parts:
            if isinstance(part, types.FunctionType) and not _is_made(part):
                yield part


def _is_made(function: types.FunctionType) -> bool:
    return function.__code__.co_filename.startswith("<") or function.__globals__ is vars(dataclasses)


@functools.cache
def _is_library(module: str) -> bool:
    """Whether a module is ours, Python's or installed. Things of such modules count by name."""
    if module.partition(".")[0] == _OURS:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module != "__main__"
    places = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return os.path.abspath(file).startswith(tuple(f"{place}{os.sep}" for place in places))
