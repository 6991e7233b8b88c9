"""Suggestions for unknown names, and lists of names in messages."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

_MOST = 12  # names in a message


def nearest(wrong: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names in `known` that are similar to `wrong`, best first."""
    return difflib.get_close_matches(wrong, list(dict.fromkeys(known)), n=most, cutoff=cutoff)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or an empty string."""
    near = nearest(wrong, known)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_of(known: Iterable[str], wrong: str) -> str:
    """`one of a, b, c`, and `; did you mean 'b'?` if one of them is near."""
    known = list(known)
    return f"one of {', '.join(known)}{did_you_mean(wrong, known)}"


def nearest_text(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or a list of the known names."""
    known = list(dict.fromkeys(known))
    return did_you_mean(wrong, known) or f"; there are: {listed(known, wrong)}"


def listed(names: Collection[str], near: str | None = None, most: int = _MOST) -> str:
    """`a, b and 1,998 more`: at most so many of the names. near: if there are more, first those nearest to this one."""
    shown = list(names)
    if len(shown) > most and near is not None:
        shown = nearest(near, shown, most, cutoff=0.0)
    more = len(names) - most
    return ", ".join(shown[:most]) + (f" and {more:,} more" if more > 0 else "")
