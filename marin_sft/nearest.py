"""Suggestions for unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
