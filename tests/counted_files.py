"""An object store in memory that counts the bytes read and written of each file: fsspec's own, under its own name.

with counted_files() as files:
    files.put("model", directory)                   # now at memory://model
    ...
    files.read["/model/config.json"]
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem


class Reader(io.BytesIO):
    def __init__(self, content: bytes, counts: Counter[str], path: str) -> None:
        super().__init__(content)
        self.size, self._counts, self._path = len(content), counts, path

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self._counts[self._path] += len(found)
        return found

    def read1(self, size: int | None = -1, /) -> bytes:
        return self.read(size)

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer)
        self._counts[self._path] += count
        return count


class Writer(MemoryFile):
    def write(self, data: Any, /) -> int:
        CountedFileSystem.written[self.path] += len(data)
        return super().write(data)


class CountedFileSystem(MemoryFileSystem):
    """`read`, `written`: bytes by path."""

    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    read: Counter[str] = Counter()
    written: Counter[str] = Counter()

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        found = bytes(super().cat_file(path, start, end, **kwargs))
        self.read[self._strip_protocol(path)] += len(found)
        return found

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.written[self._strip_protocol(path)] += len(value)
        super().pipe_file(path, value, mode, **kwargs)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode == "rb":
            return Reader(super()._open(path, mode, **kwargs).getvalue(), self.read, path)
        if mode != "wb" or "data" in kwargs:  # that of `pipe_file`, counted there
            return super()._open(path, mode, **kwargs)
        writer = Writer(self, path)
        writer.commit()
        return writer


class Counted:
    """What the tests see of it."""

    read, written = CountedFileSystem.read, CountedFileSystem.written

    def put(self, name: str, directory: str | Path) -> str:
        """Copy the files of a local directory; its URL. No bytes are counted any more."""
        filesystem = fsspec.filesystem("memory")
        for file in Path(directory).rglob("*"):
            if file.is_file():
                filesystem.pipe_file(f"/{name}/{file.relative_to(directory).as_posix()}", file.read_bytes())
        self.clear()
        return f"memory://{name}"

    def clear(self) -> None:
        self.read.clear()
        self.written.clear()

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of each file below, by path."""
        return {path: len(file.getvalue()) for path, file in CountedFileSystem.store.items() if path.startswith(name)}


@contextmanager
def counted_files() -> Iterator[Counted]:
    fsspec.register_implementation("memory", CountedFileSystem, clobber=True)
    try:
        yield Counted()
    finally:
        fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)
        CountedFileSystem.store.clear()
        Counted().clear()
