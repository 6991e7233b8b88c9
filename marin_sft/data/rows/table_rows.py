"""The rows of parquet and Arrow files, as values that JSON can hold.

Structs become dicts, maps become dicts with strings as keys. Missing values, NaN and infinities become null. Times
become ISO 8601, durations seconds, decimals text with all digits. Bytes become text if they are UTF-8, since some
writers do not mark text as such; other bytes become `{"base64": ...}`, which nothing takes for text.
"""

from __future__ import annotations

import base64
import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from marin_sft.data.files import errors_of_reading, open_file
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.rows.source_rows import Place
from marin_sft.errors import DataError

_ROWS_AT_ONCE = 64
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_DAMAGE = (UnicodeDecodeError, SystemError, OverflowError, MemoryError)
"""What pyarrow raises for damaged files, besides its own errors."""
Convert = Callable[[Any], Any] | None


def count_rows(path: str, kind: str) -> int:
    """`kind`: ".parquet" or ".arrow". Raises DataError for a file that cannot be read."""
    with _reading(path) as stream:
        if kind == ".parquet":
            return pq.ParquetFile(stream).metadata.num_rows
        return sum(batch.num_rows for batch, _ in _arrow_batches(stream))


def count_and_places(path: str, kind: str, apart: int) -> tuple[int, list[Place]] | None:
    """The number of rows, and where reading can begin. None: rows in the middle cannot be read without those before.

    apart: the most rows that a row group of parquet may have. It skips to row groups, so it has no places.

    Raises:
        DataError: a file that cannot be read.
    """
    with _reading(path) as stream:
        if kind == ".parquet":
            about = pq.ParquetFile(stream).metadata
            small = all(about.row_group(group).num_rows <= apart for group in range(about.num_row_groups))
            return (about.num_rows, []) if small else None
        rows, places = 0, []
        for batch, offset in _arrow_batches(stream):
            if offset is None:
                return None
            places.append(Place(rows, rows, offset))
            rows += batch.num_rows
        return rows, places


def read_rows(
    path: str, kind: str, start: int, stop: int | None, place: Place | None = None
) -> Iterator[tuple[int, object]]:
    """(row number from 1, row) of rows `start` to `stop`, counted from 0. A row whose text is not UTF-8 is a BadRow.

    place: where reading can begin. None: at the start.

    Raises:
        DataError: a file cannot be read, or has two columns with the same name.
    """
    with _reading(path) as stream:
        batches = _parquet_batches(stream, start, stop) if kind == ".parquet" else _numbered(stream, place)
        for first, batch in batches:
            begin = max(start - first, 0)
            end = batch.num_rows if stop is None else min(stop - first, batch.num_rows)
            if begin < end:
                yield from enumerate(_rows(batch.slice(begin, end - begin)), first + begin + 1)
            elif begin == 0:
                return


@contextlib.contextmanager
def _reading(path: str) -> Iterator[pa.NativeFile]:
    try:
        if "://" in path:
            with open_file(path, "rb") as raw:
                yield pa.PythonFile(raw, "r")
        else:
            with pa.OSFile(path) as file:
                yield file
    except (pa.ArrowException, *_DAMAGE, *errors_of_reading(path)) as error:
        raise DataError(f"{path}: cannot be read to its end ({error}); write or fetch it again") from error


def _parquet_batches(stream: pa.NativeFile, start: int, stop: int | None) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of the first row, batch) for the row groups with rows from `start` to `stop`."""
    # Buffered reads without pre-buffering: a row group is never in memory as a whole.
    file = pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
    first = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if first + rows > start and (stop is None or first < stop):
            at = first
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], use_threads=False):
                yield at, batch
                at += batch.num_rows
        first += rows


def _numbered(stream: pa.NativeFile, place: Place | None) -> Iterator[tuple[int, pa.RecordBatch]]:
    first = place.row if place else 0
    for batch, _ in _arrow_batches(stream, place and place.offset):
        for at in range(0, batch.num_rows, _ROWS_AT_ONCE):
            yield first + at, batch.slice(at, _ROWS_AT_ONCE)
        first += batch.num_rows


def _arrow_batches(stream: pa.NativeFile, start: int | None = None) -> Iterator[tuple[pa.RecordBatch, int | None]]:
    """The batches of an IPC file or stream, each with its offset, which is None if it needs those before.

    Offsets are numbers of batches in a file, and bytes in a stream. `start`: that of the first batch to read.

    Raises:
        EOFError: a stream without its end mark: the writer or a copy may have been interrupted.
    """
    size = stream.size()
    magic = stream.read(6)
    if magic == b"ARROW1":
        file = pa.ipc.open_file(stream)
        for number in range(start or 0, file.num_record_batches):
            yield _validated(file.get_batch(number), f"batch {number + 1}"), number
        return
    stream.seek(max(size - len(_END_OF_STREAM), 0))
    if stream.read() != _END_OF_STREAM:
        raise EOFError("the end mark of the stream is missing")
    stream.seek(0)
    reader = pa.ipc.open_stream(stream)
    alone = not any(map(_has_dictionary, reader.schema.types))  # dictionaries come with earlier batches
    if start is not None:
        stream.seek(start)
    number = 0
    while True:
        offset = stream.tell()
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        number += 1
        where = f"batch {number}" if start is None else f"batch at byte {offset}"
        yield _validated(batch, where), offset if alone else None


def _has_dictionary(type: pa.DataType) -> bool:
    inner = [type.field(i).type for i in range(type.num_fields)]
    return pa.types.is_dictionary(type) or any(map(_has_dictionary, inner))


def _validated(batch: pa.RecordBatch, where: str) -> pa.RecordBatch:
    """`batch`, checked for offsets outside of its buffers, which pyarrow would follow in a damaged file."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            # Check text as bytes: rows that are not UTF-8 are reported one by one.
            column.view(_as_bytes(column.type)).validate(full=True)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise pa.ArrowInvalid(f"{where}, column {name!r}: {error}") from error
    return batch


def _as_bytes(type: pa.DataType) -> pa.DataType:
    """`type` with bytes instead of text, in the same layout."""
    for is_text, bytes in _TEXTS:
        if is_text(type):
            return bytes
    if pa.types.is_struct(type):
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in type])
    if pa.types.is_list(type):
        return pa.list_(type.value_field.with_type(_as_bytes(type.value_type)))
    if pa.types.is_large_list(type):
        return pa.large_list(type.value_field.with_type(_as_bytes(type.value_type)))
    if pa.types.is_fixed_size_list(type):
        return pa.list_(type.value_field.with_type(_as_bytes(type.value_type)), type.list_size)
    return type


def _rows(batch: pa.RecordBatch) -> Iterator[object]:
    names = batch.schema.names
    if len(set(names)) < len(names):
        raise DataError(f"got columns {names}, expected each name once")
    converters = {field.name: convert for field in batch.schema if (convert := _converter(field.type))}
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield BadRow("invalid_utf8", str(error))
        else:
            for i in range(batch.num_rows):
                yield from _rows(batch.slice(i, 1))
        return
    for row in rows:
        for name, convert in converters.items():
            row[name] = convert(row[name])
        yield row


def _converter(type: pa.DataType) -> Convert:
    """Converts values of this type for JSON. None if pyarrow's values need no conversion."""
    made = _converter_of_present(type)
    return made and (lambda value: None if value is None else made(value))


def _converter_of_present(type: pa.DataType) -> Convert:
    if isinstance(type, pa.BaseExtensionType):
        return _converter_of_present(type.storage_type)
    if pa.types.is_dictionary(type):
        return _converter_of_present(type.value_type)
    if pa.types.is_struct(type):
        parts = {field.name: convert for field in type if (convert := _converter(field.type))}
        return (lambda value: value | {name: part(value[name]) for name, part in parts.items()}) if parts else None
    if pa.types.is_map(type):
        key, item = _converter(type.key_type) or _same, _converter(type.item_type) or _same
        return lambda value: {str(key(k)): item(v) for k, v in value}
    if any(is_list(type) for is_list in _LISTS):
        element = _converter(type.value_type)
        return (lambda value: [element(v) for v in value]) if element else None
    if pa.types.is_floating(type):
        return lambda value: value if math.isfinite(value) else None
    if pa.types.is_date(type) or pa.types.is_time(type) or pa.types.is_timestamp(type):
        return lambda value: value.isoformat()
    if pa.types.is_duration(type):
        return lambda value: value.total_seconds()
    if pa.types.is_decimal(type):
        return str
    if any(is_binary(type) for is_binary in _BINARIES):
        return _text_or_base64
    return None


def _text_or_base64(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


_TEXTS = (
    (pa.types.is_string, pa.binary()),
    (pa.types.is_large_string, pa.large_binary()),
    (pa.types.is_string_view, pa.binary_view()),
)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)
_BINARIES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)


def _same(value: object) -> object:
    return value
