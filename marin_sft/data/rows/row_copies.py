"""Copies of the rows of a file that can only be read from its start: a copy can be read from many places.

A copy is made while the rows are counted, and removed when they have been read. It consists of frames: two sizes, then
that many compressed bytes, which hold the next rows as `marshal` writes them: all values stay as they are.
"""

from __future__ import annotations

import contextlib
import marshal
import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from marin_sft.data.files import open_file
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.rows.source_rows import Place, RawRow
from marin_sft.errors import DataError

ROWS_APART, BYTES_APART = 512, 1 << 20
"""A new place begins after so many rows, or bytes."""
_CODEC = "zstd"
_SIZES = struct.Struct("<QQ")  # compressed, decompressed


def copied(rows: Iterable[RawRow], path: str, rows_without: int, bytes_without: int) -> tuple[int, tuple[Place, ...]]:
    """The number of `rows`, and places in their copy at `path`.

    There is no copy and no place for few rows: up to `rows_without` of `bytes_without` compressed bytes.
    """
    places: list[Place] = []
    waiting: list[bytes] = []
    count = offset = 0
    with contextlib.ExitStack() as stack:
        file: BinaryIO | None = None
        for some, frame in _frames(rows):
            places.append(Place(count, 0, offset, path))
            count, offset = count + some, offset + len(frame)
            waiting.append(frame)
            if file is None and (count > rows_without or offset > bytes_without):
                file = stack.enter_context(open_file(path, "wb"))
            if file is not None:
                file.writelines(waiting)
                waiting.clear()
    return count, tuple(places) if file is not None else ()


def copied_rows(place: Place) -> Iterator[RawRow]:
    """The rows from `place` on. Raises DataError if the copy is damaged."""
    import pyarrow as pa

    assert place.copy is not None
    with open_file(place.copy, "rb") as file:
        file.seek(place.offset)
        while head := file.read(_SIZES.size):
            try:
                size, decompressed = _SIZES.unpack(head)
                rows = marshal.loads(pa.decompress(file.read(size), decompressed, _CODEC))
            except (struct.error, pa.ArrowException, OSError, EOFError, ValueError, TypeError) as error:
                raise DataError(f"{place.copy}: a copy of rows is damaged ({error}); run the step again") from error
            for line, raw, reason in map(marshal.loads, rows):
                yield line, raw if reason is None else BadRow(reason, raw)


def _frames(rows: Iterable[RawRow]) -> Iterator[tuple[int, bytes]]:
    """(number of rows, frame) for all of `rows`."""
    held: list[bytes] = []
    size = 0
    for line, raw in rows:
        row: Any = (line, raw.message, raw.reason) if isinstance(raw, BadRow) else (line, raw, None)
        held.append(marshal.dumps(row))
        size += len(held[-1])
        if len(held) == ROWS_APART or size >= BYTES_APART:
            yield len(held), _frame(held)
            held, size = [], 0
    if held:
        yield len(held), _frame(held)


def _frame(rows: list[bytes]) -> bytes:
    import pyarrow as pa

    data = marshal.dumps(rows)
    packed = pa.compress(data, _CODEC, asbytes=True)
    return _SIZES.pack(len(packed), len(data)) + packed
