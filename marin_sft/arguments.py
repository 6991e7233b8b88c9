"""Calls by name: a name that there is not is answered with those that it is like, and one that is left out is named."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from marin_sft.errors import ConfigError
from marin_sft.nearest import nearest

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_NAMED = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class NamedFields(type):
    """Of configs: a call with a field that there is not, or without one that is needed, raises ConfigError.

    `OTHER_NAMES` of such a class: for names that others use, what there is here.
    """

    OTHER_NAMES: Mapping[str, str] = {}

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        _check(cls.__name__, "field", _signature(cls).parameters, args, kwargs, cls.OTHER_NAMES)
        return super().__call__(*args, **kwargs)

    @property
    def __signature__(cls) -> inspect.Signature:
        """What `help` and `inspect.signature` show, instead of that of `__call__`."""
        return _signature(cls)


def named_arguments(
    options: Callable[..., Any] | None = None, other_names: Mapping[str, str] | None = None
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorates a function whose calls answer in the same way. `options`: the function that gets its `**options`; None:
    what these are called is checked elsewhere."""

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        parameters = dict(inspect.signature(function).parameters)
        if options is not None:
            own = {name: p for name, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
            more = {name: p for name, p in inspect.signature(options).parameters.items() if p.default is not p.empty}
            parameters = own | {name: p for name, p in more.items() if name not in own}

        @functools.wraps(function)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            _check(f"{function.__name__}()", "argument", parameters, args, kwargs, other_names or {})
            return function(*args, **kwargs)

        return call

    return decorate


def unknown_name(what: str, noun: str, name: str, known: Iterable[str], other_names: Mapping[str, str]) -> str:
    """What is said of a name that `what` does not have."""
    near = " or ".join(map(repr, nearest(name, known, most=3)))
    meant = f"did you mean {near}?" if near else "see its docstring for those there are"
    return f"{what} has no {noun} {name!r}: {other_names.get(name) or meant}"


def _check(
    what: str,
    noun: str,
    parameters: Mapping[str, inspect.Parameter],
    args: Sequence[Any],
    given: Collection[str],
    other_names: Mapping[str, str],
) -> None:
    known = [name for name, parameter in parameters.items() if parameter.kind in _NAMED]
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in given if name not in known]
    if unknown and not open_ended:
        raise ConfigError(unknown_name(what, noun, unknown[0], known, other_names))
    by_position = [name for name, parameter in parameters.items() if parameter.kind in _BY_POSITION][: len(args)]
    for name in known:
        needed = parameters[name].default is inspect.Parameter.empty
        if needed and name not in given and name not in by_position:
            near = nearest(name, unknown)
            meant = f"is it {near[0]!r}?" if near else f"give {name}=..., which has no default"
            raise ConfigError(f"{what}: the {noun} {name!r} is missing; {meant}")


@functools.cache
def _signature(of: type) -> inspect.Signature:
    whole = inspect.signature(inspect.getattr_static(of, "__init__"))
    return whole.replace(parameters=list(whole.parameters.values())[1:])
