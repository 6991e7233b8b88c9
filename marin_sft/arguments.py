"""Calls with a wrong name: an unknown argument is answered with the nearest ones, and a missing one is named. And
arguments of a wrong type."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, ParamSpec, TypeVar, dataclass_transform

from marin_sft.errors import ConfigError
from marin_sft.nearest import nearest

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Part = TypeVar("Part")

_NAMED = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class NamedFields(type):
    """The metaclass of configs. A call with an unknown field, or without a field that has no default, is a ConfigError.

    `OTHER_NAMES` of a config: what to use here for the names of other libraries.
    """

    OTHER_NAMES: Mapping[str, str] = {}

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except TypeError:  # looked into only now: most calls are right, and plans make thousands of configs
            parameters, has_no = _signature(cls).parameters, f"{cls.__name__} has no field"
            if mistake := _mistake(cls.__name__, has_no, parameters, args, kwargs, cls.OTHER_NAMES):
                raise ConfigError(mistake) from None
            raise

    @property
    def __signature__(cls) -> inspect.Signature:
        """The signature that `help` shows: of `__init__`, not of `__call__`."""
        return _signature(cls)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def part_of_config(cls: type[Part]) -> type[Part]:
    """A dataclass that configs inherit fields from, and that is never made by itself. Nothing is generated for it but
    its fields: a plan imports all parts, and generating the methods of one takes half a millisecond."""
    return dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)(cls)


def named_arguments(
    options: Callable[..., Any] | None = None, other_names: Mapping[str, str] | None = None
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """A decorator that checks the calls of a function in the same way.

    options: the function that `**options` are passed to. None: they are checked elsewhere.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        parameters = dict(inspect.signature(function).parameters)
        if options is not None:
            own = {name: p for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
            more = {name: p for name, p in inspect.signature(options).parameters.items() if p.default is not p.empty}
            parameters = own | {name: p for name, p in more.items() if name not in own}

        @functools.wraps(function)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            what = f"{function.__name__}()"
            if mistake := _mistake(what, f"{what} has no argument", parameters, args, kwargs, other_names or {}):
                raise ConfigError(mistake)
            return function(*args, **kwargs)

        return call

    return decorate


def check_type(what: str, argument: str, value: object, type_: type | UnionType, expected: str) -> None:
    """Raise ConfigError for an argument of another type. what: whose argument it is."""
    if not isinstance(value, type_):
        raise ConfigError(f"{what}: {argument} = {value!r}; expected {expected}")


def _mistake(
    what: str,
    has_no: str,
    parameters: Mapping[str, inspect.Parameter],
    args: Sequence[Any],
    given: Collection[str],
    other_names: Mapping[str, str],
) -> str | None:
    """What is wrong with the names of a call."""
    known = [name for name, parameter in parameters.items() if parameter.kind in _NAMED]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in given if name not in known]
    if unknown and not open_ended:
        near = " or ".join(map(repr, nearest(unknown[0], known, most=3)))
        meant = f"did you mean {near}?" if near else "see its docstring for those there are"
        return f"{has_no} {unknown[0]!r}: {other_names.get(unknown[0]) or meant}"
    by_position = [name for name, parameter in parameters.items() if parameter.kind in _BY_POSITION][: len(args)]
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in given and name not in by_position:
            likely = nearest(name, unknown)
            advice = f"is it {likely[0]!r}?" if likely else f"it has no default: {name}=..."
            return f"{what}: {name!r} is missing; {advice}"
    return None


@functools.cache
def _signature(of: type) -> inspect.Signature:
    whole = inspect.signature(inspect.getattr_static(of, "__init__"))
    return whole.replace(parameters=list(whole.parameters.values())[1:])
