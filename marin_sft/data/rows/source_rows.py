"""Where a row comes from: a file, a span of it, a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class SourceFile:
    """`path` opens the file; `name` is the part of it that does not depend on where the data lies."""

    path: str
    name: str


class SourceRow(NamedTuple):
    """Line numbers count from 1; in a JSON list and in tables, rows count. `row` is a BadRow where it is unreadable."""

    file: SourceFile
    line: int
    row: Any


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` of a file."""

    file: SourceFile
    start: int
    stop: int
