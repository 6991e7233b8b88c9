"""What keeps a config that is converted to another from dropping a field without a word."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from marin_sft.errors import ConfigError

Method = TypeVar("Method", bound=Callable[..., Any])


def reads(*fields: str) -> Callable[[Method], Method]:
    """Says of a method that it makes something of these fields, which the target does not have by their names."""

    def mark(method: Method) -> Method:
        method.reads = fields  # type: ignore[attr-defined]
        return method

    return mark


class Converted:
    """A dataclass whose fields are those of the target, from bases that are not `Converted`, and those that its methods
    read. A subclass gives a field another default with its type or without: `warmup = 0.1`.

    Raises:
        ConfigError: when a subclass is defined with a field that would be dropped.
    """

    def __init_subclass__(cls) -> None:
        own, known = cls.__annotations__, cls.fields_of_target() | _fields_read(cls)
        for name in own.keys() - known:
            if "ClassVar" not in str(own[name]):
                raise ConfigError(
                    f"{cls.__name__}.{name}: training has no such setting, and no method of the class reads it; "
                    "expected a field of TrainingSettings, or a method with @reads for it"
                )
        for name in (vars(cls).keys() & known) - own.keys():  # else dataclasses would not see the new default
            own[name] = get_type_hints(next(base for base in cls.__mro__[1:] if hasattr(base, name)))[name]

    @classmethod
    def fields_of_target(cls) -> set[str]:
        """Those that are passed on by their names."""
        parts = [base for base in cls.__mro__ if dataclasses.is_dataclass(base) and not issubclass(base, Converted)]
        return {field.name for part in parts for field in dataclasses.fields(part)}

    def check_declared(self) -> None:
        """Raise ConfigError for a subclass that is no dataclass, whose defaults would change nothing."""
        own = vars(type(self))
        if own.get("__annotations__") and "__dataclass_params__" not in own:
            raise ConfigError(
                f"{type(self).__name__}: what it says of its fields changes nothing; expected "
                "@dataclass(frozen=True, kw_only=True) above the class"
            )


def _fields_read(of: type) -> set[str]:
    return {name for base in of.__mro__ for method in vars(base).values() for name in getattr(method, "reads", ())}
