"""Rows from files, and back. Local paths and any fsspec URL.

    .jsonl .ndjson   a JSON value a line
    .json            one list of rows, or {"data": [...]}; or JSON lines; or JSON objects one after another
    .csv .tsv        a header, then rows; every value is text, unchanged
    .parquet         .arrow (IPC streams and files, as `datasets` writes them)
    .txt             a prompt a line; only where prompts are expected

All but tables may be compressed as .gz or .zst. Reading a file of any size takes little memory: a row, a batch of
a table, or a row group at a time.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from marin_sft.data.files import Json, errors_of_reading, open_file
from marin_sft.data.rows.row_copies import BYTES_APART, ROWS_APART, copied, copied_rows
from marin_sft.data.rows.saved_datasets import without_descriptions
from marin_sft.data.rows.source_rows import Place, RawRow, SourceFile, SourceRow, Span
from marin_sft.data.rows.text_rows import (
    count_json_lines,
    csv_rows,
    json_line_places,
    json_line_rows,
    json_rows,
    parsed_row,
    prompt_lines,
    tsv_rows,
)
from marin_sft.errors import DataError
from marin_sft.nearest import listed
from marin_sft.paths import Found, file_system, find, local_path, nearest_path

_TEXTS: dict[str, Callable[[BinaryIO], Iterator[RawRow]]] = {
    ".jsonl": json_line_rows,
    ".ndjson": json_line_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".txt": prompt_lines,
}
_TABLES = (".parquet", ".arrow")
ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", *_TABLES)
"""The kinds of files that hold rows of data."""
PROMPTS = (*ROWS, ".txt")
"""Those that hold prompts."""
_COMPRESSIONS = (".gz", ".zst")
_OTHER_COMPRESSIONS = (".xz", ".bz2", ".zip", ".lz4", ".br")
_ABOUT_DATA = re.compile(r"readme|licen[cs]e|dataset_infos?\.json|.*\.md$", re.IGNORECASE)
_SHOWN = 5  # of the skipped files
_ROWS_WITHOUT_COPY = 8192  # of a file that can only be read from its start: it is read again at most once or twice
_BYTES_WITHOUT_COPY = 1 << 26


def is_readable(path: str, kinds: Sequence[str] = ROWS) -> bool:
    """Whether the rows of a file can be read, by its name."""
    return _kind(path) in kinds


def find_files(patterns: Sequence[str], kinds: Sequence[str] = ROWS) -> list[SourceFile]:
    """The files of these `kinds` that `patterns` (paths, directories or globs, see `paths.find`) name, each once, in
    order of pattern and then path.

    Names that start with a dot are left out. So are unreadable kinds of files in a directory. In a directory that
    `datasets` saved, only the tables count.

    Raises:
        DataError: a pattern matches no file, a path or glob names an unreadable kind of file, a link is broken, or a
            directory cannot be read.
    """
    found: dict[str, SourceFile] = {}
    for pattern in patterns:
        for file in _matches(pattern, kinds):
            found.setdefault(file.path, file)
    unreadable = [file.path for file in found.values() if not is_readable(file.path, kinds)]
    if unreadable:
        raise DataError(
            f"cannot read {unreadable[0]!r}; expected one of {', '.join(kinds)}, the text formats also with .gz or "
            ".zst; narrow the glob"
        )
    return list(found.values())


def files_below(directory: str) -> list[SourceFile]:
    """All files below `directory`, of any kind, by path. Names that start with a dot are left out.

    Raises:
        DataError: a broken link, or a directory that cannot be read.
    """
    return _named(directory, _found(directory))


def _matches(pattern: str, kinds: Sequence[str]) -> list[SourceFile]:
    if pattern.startswith(("https://", "http://")):
        # A web server has no directories, and "?" in a URL is not a wildcard.
        return [SourceFile(pattern, _name(pattern).rsplit("/", 1)[-1])]
    found = _found(pattern)
    files = _named(pattern, found)
    if _is_directory(pattern, found):
        described = without_descriptions(files)
        files = [file for file in described if is_readable(file.path, kinds) or _is_packed(file.path, kinds)]
        _warn_of_skipped(pattern, [file.name for file in described if file not in files], kinds)
    if not files:
        expected = ", ".join(kinds)
        raise DataError(f"no file matches {pattern!r}; expected at least one of {expected}{nearest_path(pattern)}")
    return files


def _warn_of_skipped(directory: str, names: Sequence[str], kinds: Sequence[str]) -> None:
    """Warn of unreadable files in a directory of rows, except a README, a licence and the like."""
    names = [name for name in names if not _ABOUT_DATA.match(PurePosixPath(name).name)]
    if names:
        shown = listed(names, most=_SHOWN)
        print(f"warning: {directory}: skipped {shown}; expected {', '.join(kinds)}", file=sys.stderr)


def _is_packed(path: str, kinds: Sequence[str]) -> bool:
    """Whether a file holds rows in an unsupported compression: it must not be skipped silently."""
    name = PurePosixPath(_name(path).lower())
    return name.suffix in (*_COMPRESSIONS, *_OTHER_COMPRESSIONS) and name.with_suffix("").suffix in kinds


def _found(path: str) -> Found:
    try:
        return find(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _is_directory(pattern: str, found: Found) -> bool:
    """Whether `pattern` is the directory itself, not a glob or a file."""
    return (local_path(pattern) or file_system(pattern)[1]).rstrip("/") == found.root.rstrip("/")


def _named(path: str, found: Found) -> list[SourceFile]:
    broken = [name for name in found.broken if is_readable(name) and not _is_hidden(name)]
    if broken:
        raise DataError(f"{found.root}/{broken[0]} is a broken link; fix it, or remove it")
    address = str if local_path(path) is not None else file_system(path)[0].unstrip_protocol
    root = found.root.rstrip("/")
    return [SourceFile(address(f"{root}/{name}"), name) for name in sorted(found.names) if not _is_hidden(name)]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def count_rows(file: SourceFile) -> int:
    """How many rows `read_rows` gives. Reads only the footer of parquet, and does not parse JSON lines.

    Raises:
        DataError: as `read_rows` does.
    """
    if (kind := _kind(file.path)) in _TABLES:
        from marin_sft.data.rows import table_rows

        return table_rows.count_rows(file.path, kind)
    with _reading(file) as stream:
        rows_of = _TEXTS[kind]
        return count_json_lines(stream) if rows_of is json_line_rows else sum(1 for _ in rows_of(stream))


def whole_span(file: SourceFile, copy: str | None = None) -> Span:
    """All rows of a file, counted, with places from which parts of them can be read.

    Lines of JSON and tables are read where they are. Compressed files, lists of JSON and separated values can only be
    read from their start, as can a large row group of parquet, so each part would cost all rows before it. If there
    are many rows, they are copied to `copy` as they are counted. None: no copy.

    Raises:
        DataError: as `read_rows` does.
    """
    kind = _kind(file.path)
    if kind in _TABLES:
        from marin_sft.data.rows import table_rows

        if found := table_rows.count_and_places(file.path, kind, _ROWS_WITHOUT_COPY):
            return Span(file, 0, found[0], tuple(found[1]))
    elif _TEXTS[kind] is json_line_rows and _can_seek(file.path):
        with _reading(file) as stream:
            rows, places = json_line_places(stream, ROWS_APART, BYTES_APART)
            return Span(file, 0, rows, tuple(places))
    if copy is None:
        return Span(file, 0, count_rows(file))
    return Span(file, 0, *copied(_raw_rows(file), copy, _ROWS_WITHOUT_COPY, _BYTES_WITHOUT_COPY))


def read_span(span: Span) -> Iterator[SourceRow]:
    """The rows of `span`, from the last place before them on.

    Raises:
        DataError: as `read_rows` does, or there are fewer rows.
    """
    place = next(iter(span.part(span.start, span.stop).places), None)
    number = span.start
    for row in _rows(span.file, span.start, span.stop, place):
        number += 1
        yield row
    if number < span.stop:
        raise DataError(f"{span.file.path}: it ends after {number} rows, but had {span.stop}; did it change meanwhile?")


def read_rows(file: SourceFile, start: int = 0, stop: int | None = None) -> Iterator[SourceRow]:
    """Rows `start` to `stop` (counted from 0) of `file`. Parquet skips to `start`; other files are read up to it.

    Raises:
        DataError: a file cannot be read to its end, or is not what its name says.
    """
    yield from _rows(file, start, stop, None)


def _rows(file: SourceFile, start: int, stop: int | None, place: Place | None) -> Iterator[SourceRow]:
    raw = _raw_rows(file, start, stop, place)
    if place and place.copy:
        raw = islice(copied_rows(place), start - place.row, stop and stop - place.row)
    for line, row in raw:
        yield SourceRow(file, line, parsed_row(row))


def _raw_rows(
    file: SourceFile, start: int = 0, stop: int | None = None, place: Place | None = None
) -> Iterator[RawRow]:
    if (kind := _kind(file.path)) in _TABLES:
        from marin_sft.data.rows import table_rows

        yield from table_rows.read_rows(file.path, kind, start, stop, place)
        return
    with _reading(file) as stream:
        if place:  # in lines of JSON
            stream.seek(place.offset)
            yield from islice(json_line_rows(stream, place.lines), start - place.row, stop and stop - place.row)
        else:
            yield from islice(_TEXTS[kind](stream), start, stop)


def _can_seek(path: str) -> bool:
    """Whether a part of a file can be read alone: it is not compressed, and not from a web server."""
    return not _name(path).lower().endswith(_COMPRESSIONS) and not path.startswith(("https://", "http://"))


@contextlib.contextmanager
def _reading(file: SourceFile) -> Iterator[BinaryIO]:
    """The open file. Errors inside become a DataError that names it."""
    try:
        with _opened(file.path) as stream:
            yield stream
    except errors_of_reading(file.path) as error:
        raise DataError(f"{file.path}: cannot be read to its end ({error}); write or fetch it again") from error
    except ValueError as error:
        raise DataError(f"{file.path}: {error}") from error


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The decompressed bytes of a file. A compressed file that ends early raises OSError or EOFError."""
    with open_file(path, "rb") as raw:
        name = _name(path).lower()
        start = raw.read(2)
        if name.endswith(_COMPRESSIONS) and not start:
            raise EOFError("the file is empty")
        if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError("got UTF-16, expected UTF-8: save it again with that encoding")
        raw.seek(0)
        if name.endswith(".gz"):
            yield gzip.GzipFile(fileobj=raw)
        elif name.endswith(".zst"):
            import pyarrow as pa

            # The zstandard package does not notice a truncated file; pyarrow does.
            yield io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"), 1 << 20)
        else:
            yield raw


def _kind(path: str) -> str:
    """The suffix that names the format of the rows: `.json` for `x.json.gz`. Empty if it cannot be read."""
    name = _name(path).lower()
    suffix = PurePosixPath(name).suffix
    if suffix in _COMPRESSIONS:
        suffix = PurePosixPath(name.removesuffix(suffix)).suffix
        return suffix if suffix in _TEXTS else ""
    return suffix if suffix in (*_TEXTS, *_TABLES) else ""


def _name(path: str) -> str:
    """The path, without the query of a URL."""
    return urlsplit(path).path if path.startswith(("https://", "http://")) else path


def write_shard(directory: str, index: int, rows: Iterable[Json]) -> str:
    """Write `{directory}/shard_{index:05d}.jsonl.gz` and return its path. The same rows give the same bytes."""
    path = f"{directory.rstrip('/')}/shard_{index:05d}.jsonl.gz"
    with open_file(path, "wb") as raw:
        # No file name and no time in the gzip header.
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as zipped:
            with io.TextIOWrapper(zipped, encoding="utf-8", newline="\n") as text:
                text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def write_rows(directory: str, rows: Iterable[Json], rows_per_shard: int = 5000) -> list[str]:
    """Write `rows` as `shard_00000.jsonl.gz` and so on in `directory`; their paths. No rows: one empty shard."""
    rows = iter(rows)
    paths = [write_shard(directory, 0, islice(rows, rows_per_shard))]
    while some := list(islice(rows, rows_per_shard)):
        paths.append(write_shard(directory, len(paths), some))
    return paths
