"""JSON rows from files, and back. Local paths and any fsspec URL."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from marin_sft.data.files import open_file
from marin_sft.data.messages import BadRow
from marin_sft.errors import DataError

_KINDS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_MAGIC = "*?["


@dataclass(frozen=True)
class SourceFile:
    """`path` opens the file; `name` is the part of it that does not depend on where the data lies."""

    path: str
    name: str


class SourceRow(NamedTuple):
    """Line numbers count from 1; in a JSON list, elements count. `row` is a BadRow where the line is no JSON."""

    file: SourceFile
    line: int
    row: Any


def find_files(patterns: Sequence[str]) -> list[SourceFile]:
    """The files that `patterns` (paths, directories or globs) name, each once, in order of pattern and then path.

    Files and directories whose name starts with a dot are left out.

    Raises:
        DataError: a pattern that matches no file, or a file of another kind than .json and .jsonl (.gz).
    """
    found: dict[str, SourceFile] = {}
    for pattern in patterns:
        files = _matches(pattern)
        if not files:
            raise DataError(f"no file matches {pattern!r}; expected at least one of {', '.join(_KINDS)}")
        for file in files:
            found.setdefault(file.path, file)
    unreadable = [file.path for file in found.values() if not file.path.endswith(_KINDS)]
    if unreadable:
        raise DataError(f"cannot read {unreadable[0]!r}; expected one of {', '.join(_KINDS)}; narrow the glob")
    return list(found.values())


def _matches(pattern: str) -> list[SourceFile]:
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(pattern)
    if any(c in path for c in _MAGIC):
        fixed = path[: min(path.index(c) for c in _MAGIC if c in path)]
        root = fixed[: fixed.rfind("/") + 1]
        paths = [str(p) for p in fs.glob(path) if not fs.isdir(p)]
    elif fs.isdir(path):
        root = path.rstrip("/") + "/"
        paths = [p for p in fs.find(path) if p.endswith(_KINDS)]
    else:
        root = path[: path.rfind("/") + 1]
        paths = [path] if fs.exists(path) else []
    named = [SourceFile(fs.unstrip_protocol(p) if "://" in pattern else p, p.removeprefix(root)) for p in sorted(paths)]
    return [file for file in named if not any(part.startswith(".") for part in file.name.split("/"))]


def count_rows(file: SourceFile) -> int:
    """Rows in `file`, without parsing those of a JSON-lines file. Blank lines are no rows."""
    return sum(1 for _ in _raw_rows(file))


def read_rows(file: SourceFile, start: int = 0, stop: int | None = None) -> Iterator[SourceRow]:
    """Rows `start` to `stop` (counted from 0) of `file`.

    Raises:
        DataError: a file that cannot be read to its end, or a .json file that holds no list of rows.
    """
    for line, raw in islice(_raw_rows(file), start, stop):
        yield SourceRow(file, line, _parsed(raw) if isinstance(raw, bytes) else raw)


def _raw_rows(file: SourceFile) -> Iterator[tuple[int, Any]]:
    """(line, bytes) of a JSON-lines file, (element number, value) of a JSON list."""
    try:
        with open_file(file.path, "rb", compression="infer") as stream:
            if file.path.removesuffix(".gz").endswith(".jsonl"):
                yield from ((n, line) for n, line in enumerate(stream, 1) if line.strip())
            else:
                yield from enumerate(_list_of_rows(json.load(stream), file), 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file.path}: cannot be read to its end ({error}); write or fetch it again") from error
    except ValueError as error:
        raise DataError(f"{file.path}: expected one JSON list ({error}); name JSON-lines files .jsonl") from error


def _list_of_rows(value: Any, file: SourceFile) -> list[Any]:
    rows = value["data"] if isinstance(value, dict) and set(value) == {"data"} else value
    if not isinstance(rows, list):
        raise DataError(f"{file.path}: got a JSON {type(value).__name__}, expected a list of rows or {{'data': [...]}}")
    return rows


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return BadRow("invalid_json", str(error))


def write_shard(directory: str, index: int, rows: Iterable[dict[str, Any]]) -> str:
    """Write `{directory}/shard_{index:05d}.jsonl.gz` and return its path. The same rows give the same bytes."""
    path = f"{directory.rstrip('/')}/shard_{index:05d}.jsonl.gz"
    with open_file(path, "wb") as raw:
        # No file name and no time in the gzip header.
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as zipped:
            with io.TextIOWrapper(zipped, encoding="utf-8", newline="\n") as text:
                text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def write_rows(directory: str, rows: Iterable[dict[str, Any]], rows_per_shard: int = 5000) -> list[str]:
    """Write all `rows` as `shard_00000.jsonl.gz` and so on below `directory`; their paths. No rows: one empty shard."""
    rows = iter(rows)
    paths = [write_shard(directory, 0, islice(rows, rows_per_shard))]
    while some := list(islice(rows, rows_per_shard)):
        paths.append(write_shard(directory, len(paths), some))
    return paths
