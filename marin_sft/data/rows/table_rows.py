"""The rows of parquet and Arrow files, as values that JSON can hold.

Structs become dicts, maps become dicts with strings as keys. Missing values, NaN and infinities become null. Times
become ISO 8601, durations seconds, decimals text with all digits. Bytes become text if they are UTF-8, since some
writers do not mark text as such; other bytes become `{"base64": ...}`, which nothing takes for text.
"""

from __future__ import annotations

import base64
import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from marin_sft.data.files import errors_of_reading, open_file
from marin_sft.data.messages.examples import BadRow
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
        return sum(batch.num_rows for batch in _arrow_batches(stream))


def read_rows(path: str, kind: str, start: int, stop: int | None) -> Iterator[tuple[int, object]]:
    """(row number from 1, row) of rows `start` to `stop`, counted from 0. A row whose text is not UTF-8 is a BadRow.

    Raises:
        DataError: a file cannot be read, or has two columns with the same name.
    """
    with _reading(path) as stream:
        batches = _parquet_batches(stream, start, stop) if kind == ".parquet" else _numbered(stream)
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


def _numbered(stream: pa.NativeFile) -> Iterator[tuple[int, pa.RecordBatch]]:
    first = 0
    for batch in _arrow_batches(stream):
        for at in range(0, batch.num_rows, _ROWS_AT_ONCE):
            yield first + at, batch.slice(at, _ROWS_AT_ONCE)
        first += batch.num_rows


def _arrow_batches(stream: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """The batches of an IPC file or stream.

    Raises:
        EOFError: a stream without its end mark: the writer or a copy may have been interrupted.
    """
    size = stream.size()
    magic = stream.read(6)
    if magic == b"ARROW1":
        file = pa.ipc.open_file(stream)
        yield from _validated(file.get_batch(i) for i in range(file.num_record_batches))
        return
    stream.seek(max(size - len(_END_OF_STREAM), 0))
    if stream.read() != _END_OF_STREAM:
        raise EOFError("the end mark of the stream is missing")
    stream.seek(0)
    yield from _validated(pa.ipc.open_stream(stream))


def _validated(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """`batches`, checked for offsets outside of their buffers, which pyarrow would follow in a damaged file."""
    for number, batch in enumerate(batches, 1):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                # Check text as bytes: rows that are not UTF-8 are reported one by one.
                column.view(_as_bytes(column.type)).validate(full=True)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise pa.ArrowInvalid(f"batch {number}, column {name!r}: {error}") from error
        yield batch


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
