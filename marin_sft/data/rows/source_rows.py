"""Where a row comes from: a file, a span of it, a line."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

RawRow: TypeAlias = tuple[int, object]
"""The line of a row, and the row: the bytes of a line of JSON, a parsed value, or a `BadRow`."""


@dataclass(frozen=True)
class SourceFile:
    """A file of rows. `name` is the part of `path` that does not depend on where the data is."""

    path: str
    name: str


class SourceRow(NamedTuple):
    """One row. `line` counts lines from 1; in JSON lists and tables, rows. `row` is a BadRow if it is unreadable."""

    file: SourceFile
    line: int
    row: Any


class Place(NamedTuple):
    """Where reading a file can begin: row `row`, counted from 0, at byte `offset`.

    lines: how many lines come before it.
    copy: the copy of the file that `offset` is in, see row_copies.py. None: the file itself.
    """

    row: int
    lines: int
    offset: int
    copy: str | None = None


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` of a file. `places`, ascending: where reading them can begin, besides the file's start."""

    file: SourceFile
    start: int
    stop: int
    places: tuple[Place, ...] = ()

    def part(self, start: int, stop: int) -> Span:
        """Some of these rows, with only the place that they need."""
        before = bisect_right(self.places, start, key=lambda place: place.row)
        return Span(self.file, start, stop, self.places[:before][-1:])
