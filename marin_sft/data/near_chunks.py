"""Chunks of token caches in object stores, kept on this machine's disk once they were read.

Training reads documents in random order, and each is a small part of a compressed chunk of 2**18 tokens. Without a copy
each document costs a whole chunk, so that an epoch fetches the cache hundreds of times. With it, a chunk is fetched
once, and adjacent ones in one request.

The copy has the layout of the cache. Its files are sparse: only the chunks that were read take space.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from marin_sft.paths import file_system

_NAME = "marin_sft_tokens_"
_LOCK = "lock"
_KEPT_FREE = 0.1  # of the disk; Ray stops at 0.05
_IN_MEMORY = ("tmpfs", "ramfs")
_NO_CHUNK = np.iinfo(np.uint64).max


class Tokens(NamedTuple):
    """Tokens `start` to `stop` of an array. `array`: its directory below that of the cache."""

    array: str
    start: int
    stop: int


@dataclass
class _Shard:
    """A file of chunks: where each is in it (first byte, end), and which of them are here."""

    where: np.ndarray
    here: set[int] = field(default_factory=set)


class NearChunks:
    """Of the cache in `directory`. `path`: where the copy is."""

    def __init__(self, directory: str) -> None:
        self._system, self._root = file_system(directory)
        self.path = tempfile.mkdtemp(dir=_own_directory())
        self._lock = threading.Lock()
        self._layouts: dict[str, tuple[int, int]] = {}  # of each array: tokens of a file, tokens of a chunk
        self._shards: dict[str, _Shard] = {}  # by file
        self._told = False

    def bring(self, tokens: Sequence[Tokens]) -> list[bool]:
        """Fetch the chunks of `tokens` that are not here. False for those that cannot be: read the store itself."""
        with self._lock:
            try:
                self._learn_layouts({some.array for some in tokens})
                chunks = [list(self._chunks_of(some)) for some in tokens]
                self._learn_shards({(file, of_file) for each in chunks for file, _, of_file in each})
                self._fetch({(file, number) for each in chunks for file, number, _ in each})
                return [all(number in self._shards[file].here for file, number, _ in each) for each in chunks]
            except Exception as error:  # TensorStore then reads, and says what is wrong
                self._tell(f"{type(error).__name__}: {error}")
                return [False] * len(tokens)

    def _learn_layouts(self, arrays: set[str]) -> None:
        new = sorted(arrays - self._layouts.keys())
        names = [f"{array}/zarr.json" for array in new]
        for array, name, data in zip(new, names, self._read([(name, 0, None) for name in names]), strict=True):
            self._layouts[array] = _layout(json.loads(data))
            self._write(name, 0, data)

    def _chunks_of(self, tokens: Tokens) -> Iterator[tuple[str, int, int]]:
        """(file, number of a chunk in it, chunks of a file)."""
        of_file, of_chunk = self._layouts[tokens.array]
        for number in range(tokens.start // of_chunk, -(-tokens.stop // of_chunk)):
            file, inside = divmod(number, of_file // of_chunk)
            yield f"{tokens.array}/c/{file}", inside, of_file // of_chunk

    def _learn_shards(self, files: set[tuple[str, int]]) -> None:
        """Read the index at the end of each file: first byte and size of its chunks, and a checksum."""
        new = sorted((file, chunks) for file, chunks in files if file not in self._shards)
        indexes = self._read([(file, -(16 * chunks + 4), None) for file, chunks in new])
        for (file, chunks), index in zip(new, indexes, strict=True):
            firsts, sizes = np.frombuffer(index[:-4], "<u8").reshape(chunks, 2).T
            where = np.stack([firsts, firsts + sizes], axis=1)
            where[firsts == _NO_CHUNK] = 0
            self._write(file, int(where.max()), index)
            self._shards[file] = _Shard(where)

    def _fetch(self, chunks: set[tuple[str, int]]) -> None:
        new = sorted((file, number) for file, number in chunks if number not in self._shards[file].here)
        runs = list(_runs((file, *self._shards[file].where[number].tolist()) for file, number in new))
        free = shutil.disk_usage(self.path)
        if free.free - sum(end - start for _, start, end in runs) < _KEPT_FREE * free.total:
            self._tell("the disk is nearly full")
            return
        for (file, start, _), data in zip(runs, self._read(runs), strict=True):
            self._write(file, start, data)
        for file, number in new:
            self._shards[file].here.add(number)

    def _tell(self, why: str) -> None:
        """Once."""
        if not self._told:
            print(f"{self._root}: what is read of it is not kept in {self.path} ({why})", file=sys.stderr)
        self._told = True

    def _read(self, ranges: Sequence[tuple[str, int, int | None]]) -> list[bytes]:
        """All at the same time. A negative start counts from the end."""
        if not ranges:
            return []
        names, starts, ends = zip(*ranges, strict=True)
        found = self._system.cat_ranges([f"{self._root}/{name}" for name in names], list(starts), list(ends))
        for data in found:
            if isinstance(data, Exception):
                raise data
        return list(found)

    def _write(self, name: str, at: int, data: bytes) -> None:
        path = f"{self.path}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.seek(at)
            file.write(data)


def _layout(about: dict[str, object]) -> tuple[int, int]:
    """(tokens of a file, tokens of a chunk) of an array whose zarr.json is `about`. Raises ValueError for others."""
    match about:
        case {
            "chunk_grid": {"configuration": {"chunk_shape": [int(of_file)]}},
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": [int(of_chunk)],
                        "index_codecs": [{"name": "bytes"}, {"name": "crc32c"}],
                        **rest,
                    },
                }
            ],
        } if rest.get("index_location", "end") == "end":
            return of_file, of_chunk
    raise ValueError("its arrays have an unknown layout")


def _runs(chunks: Iterable[tuple[str, int, int]]) -> Iterator[tuple[str, int, int]]:
    """Chunks (file, first byte, end) that follow each other, as one. Empty ones are left out."""
    open_run: tuple[str, int, int] | None = None
    for file, start, end in sorted(chunks):
        if open_run and open_run[0] == file and open_run[2] == start:
            open_run = (file, open_run[1], end)
        elif end > start:
            if open_run:
                yield open_run
            open_run = (file, start, end)
    if open_run:
        yield open_run


@functools.cache
def near_chunks(directory: str) -> NearChunks | None:
    """One per process. None if temporary files are in memory."""
    return None if _in_memory(tempfile.gettempdir()) else NearChunks(directory)


@functools.cache
def _own_directory() -> str:
    """A directory for this process, which removes those of processes that have ended. Each holds a lock in its own."""
    for other in Path(tempfile.gettempdir()).glob(f"{_NAME}*"):
        with contextlib.suppress(OSError), open(other / _LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other)
    path = tempfile.mkdtemp(prefix=_NAME)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    fcntl.flock(os.open(f"{path}/{_LOCK}", os.O_CREAT | os.O_RDWR, 0o600), fcntl.LOCK_EX)
    return path


def _in_memory(path: str) -> bool:
    """Whether a path is on a file system that is in memory, as /tmp is on some systems."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:  # not Linux
        return False
    inside = [
        (where, kind) for where, kind in mounts if f"{os.path.realpath(path)}/".startswith(f"{where.rstrip('/')}/")
    ]
    return max(inside, key=lambda mount: len(mount[0]))[1] in _IN_MEMORY
