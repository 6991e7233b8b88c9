"""Configs that are converted to other configs without dropping a field."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, get_type_hints

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError

Method = TypeVar("Method", bound=Callable[..., object])
Arguments: TypeAlias = dict[str, Any]
"""Arguments of a function, by name."""


def reads(*fields: str) -> Callable[[Method], Method]:
    """Mark a method that reads these fields, which the target does not have under the same names."""

    def mark(method: Method) -> Method:
        method.reads = fields  # type: ignore[attr-defined]
        return method

    return mark


class Converted(metaclass=NamedFields):
    """Base of configs that are converted. Their fields are those of the target, inherited from bases that are not
    `Converted`, and those that a method marked with `reads` converts. A subclass may change the default of a field
    without repeating its type: `warmup = 0.1`.

    Raises:
        ConfigError: a subclass is defined with a field that would be dropped.
    """

    def __init_subclass__(cls) -> None:
        own, known = cls.__annotations__, cls.fields_of_target() | _fields_read(cls)
        for name in own.keys() - known:
            if "ClassVar" not in str(own[name]):
                raise ConfigError(
                    f"{cls.__name__}.{name}: training has no such setting, and no method of the class reads it, so it "
                    "would be dropped; expected the name of a field of TrainingSettings, or a method marked with "
                    f"@reads({name!r})"
                )
        untyped = (vars(cls).keys() & known) - own.keys()  # dataclasses see a new default only with its type
        cls.__annotations__ = {**own, **{name: _type_of(cls, name) for name in untyped}}

    @classmethod
    def fields_of_target(cls) -> set[str]:
        """Names of the fields that are passed on unchanged."""
        parts = [base for base in cls.__mro__ if dataclasses.is_dataclass(base) and not issubclass(base, Converted)]
        return {field.name for part in parts for field in dataclasses.fields(part)}

    def check_declared(self) -> None:
        """Raise ConfigError if the subclass is not a dataclass: its fields and defaults would be ignored."""
        own = vars(type(self))
        if own.get("__annotations__") and "__dataclass_params__" not in own:
            raise ConfigError(
                f"{type(self).__name__} is not a dataclass, so its fields and defaults would be ignored; decorate it "
                "with @dataclass(frozen=True, kw_only=True)"
            )

    def contradiction(self, *fields: str, expected: str) -> ConfigError:
        got = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields)
        return ConfigError(f"{type(self).__name__}: {got}; expected {expected}")


def _fields_read(of: type) -> set[str]:
    return {name for base in of.__mro__ for method in vars(base).values() for name in getattr(method, "reads", ())}


def _type_of(of: type, name: str) -> object:
    declares = next(base for base in of.__mro__[1:] if name in vars(base).get("__annotations__", {}))
    return get_type_hints(declares)[name]
