"""Cuts the rows of many files into blocks of equal size, one per task.

Blocks depend only on the rows and their order, not on files or workers: the same rows give the same shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from marin_sft.data.rows.row_files import read_rows
from marin_sft.data.rows.source_rows import SourceFile, SourceRow, Span


def plan_blocks(files: Sequence[SourceFile], counts: Sequence[int], rows_per_block: int) -> list[tuple[Span, ...]]:
    """`cut` for all rows of `files`, `counts` rows each."""
    return cut([Span(file, 0, count) for file, count in zip(files, counts, strict=True)], rows_per_block)


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
            blocks[-1].append(Span(span.file, start, stop))
            room -= stop - start
            start = stop
    return [tuple(block) for block in blocks if block]


def count_of(spans: Sequence[Span]) -> int:
    """How many rows there are in all of `spans`."""
    return sum(span.stop - span.start for span in spans)


def rows_of(spans: Sequence[Span]) -> Iterator[SourceRow]:
    """All rows of `spans`, in order. Raises DataError for a file that cannot be read to its end."""
    for span in spans:
        yield from read_rows(span.file, span.start, span.stop)
