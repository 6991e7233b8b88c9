"""Cuts the rows of many files into blocks of equal size, one per task.

Blocks depend only on the rows and their order, not on files or workers: the same rows give the same shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from marin_sft.data.rows.row_files import read_span, whole_span
from marin_sft.data.rows.source_rows import SourceFile, SourceRow, Span
from marin_sft.execution.shards import map_shards

COPIES = ".rows"
"""The directory of a step's output for copies of rows, which are removed when the step ends."""


def count_files(files: Sequence[SourceFile], copies: str | None = None) -> list[Span]:
    """All rows of each file. `copies`: a directory for the copies of `whole_span`; None: none are made."""
    to = (copies and f"{copies}/{number:05d}" for number in range(len(files)))
    return map_shards(_count_file, list(zip(files, to, strict=True)), "files counted")


def _count_file(file_and_copy: tuple[SourceFile, str | None]) -> Span:
    return whole_span(*file_and_copy)


def cut(spans: Sequence[Span], rows_per_block: int) -> list[tuple[Span, ...]]:
    """Cut the rows of all `spans`, in order, into blocks of `rows_per_block`. The last may be smaller.

    Small spans share a block, large ones are cut.
    """
    blocks: list[list[Span]] = [[]]
    room = rows_per_block
    for span in spans:
        start = span.start
        while start < span.stop:
            if room == 0:
                blocks.append([])
                room = rows_per_block
            stop = min(span.stop, start + room)
            blocks[-1].append(span.part(start, stop))
            room -= stop - start
            start = stop
    return [tuple(block) for block in blocks if block]


def count_of(spans: Sequence[Span]) -> int:
    """How many rows there are in all of `spans`."""
    return sum(span.stop - span.start for span in spans)


def rows_of(spans: Sequence[Span]) -> Iterator[SourceRow]:
    """All rows of `spans`, in order. Raises DataError for a file that cannot be read to its end."""
    for span in spans:
        yield from read_span(span)
