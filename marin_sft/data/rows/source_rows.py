"""Where a row comes from: a file, a span of it, a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


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


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` of a file."""

    file: SourceFile
    start: int
    stop: int
