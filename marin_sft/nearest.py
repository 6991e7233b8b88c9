"""Suggestions for unknown names."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Self

from marin_sft.errors import ConfigError


def nearest(wrong: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names in `known` that are similar to `wrong`, best first."""
    return difflib.get_close_matches(wrong, list(dict.fromkeys(known)), n=most, cutoff=cutoff)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or an empty string."""
    near = nearest(wrong, known)
    return f"; did you mean {near[0]!r}?" if near else ""


def nearest_text(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or a list of the known names."""
    known = list(dict.fromkeys(known))
    return did_you_mean(wrong, known) or f"; there are: {', '.join(known)}"


def check_fields(of: type, given: Iterable[str], instead: Mapping[str, str]) -> None:
    """Raise ConfigError for a name that is not a field of the dataclass `of`. `instead`: advice for some names."""
    known = [field.name for field in dataclasses.fields(of)]
    for name in given:
        if name not in known:
            near = " or ".join(map(repr, nearest(name, known, most=3)))
            advice = instead.get(name) or (f"did you mean {near}?" if near else "see its docstring for the fields")
            raise ConfigError(f"{of.__name__} has no field {name!r}: {advice}")


class NamedFields:
    """Base of dataclasses that tell the nearest names of a field that they do not have."""

    def __new__(cls, *values: object, **fields: object) -> Self:
        check_fields(cls, fields, {})
        return super().__new__(cls)
