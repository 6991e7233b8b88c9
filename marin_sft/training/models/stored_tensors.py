"""Tensors in safetensors files, read on demand. A local file is mapped into memory. From a remote file, the header is
read first, and then only the bytes of the tensors that are needed.
"""

from __future__ import annotations

import json
import math
import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from marin_sft.errors import TrainingError

if TYPE_CHECKING:
    import numpy as np
    from fsspec import AbstractFileSystem

AGAIN = "the file is damaged or incomplete: copy or download it again"
COMPUTED = "rotary_emb.inv_freq"
"""How tensors of older models end that every reader computes from config.json."""

# Remote files: tensors are read together, up to _BLOCK bytes, in requests of at most _REQUEST bytes,
# _AT_ONCE at a time.
_BLOCK, _REQUEST, _AT_ONCE = 256 * 2**20, 32 * 2**20, 16
_LONGEST_HEADER = 100_000_000  # as in safetensors
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


Rows: TypeAlias = Callable[[str], "slice | None"]
"""The rows of a tensor that are needed, by its name: a range along the first axis. None: all."""


def _all(name: str) -> None:
    return None


class TensorFile(Protocol):
    """One safetensors file."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...
    def tensor(self, name: str) -> np.ndarray: ...
    def read(self, names: Collection[str], rows: Rows = _all) -> Iterator[tuple[str, np.ndarray]]: ...


class LazyTensors(Mapping[str, "np.ndarray"]):
    """Tensors by name. Each access reads or computes the tensor again."""

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By name, without reading the tensors."""

    def __contains__(self, name: object) -> bool:  # Mapping's own reads the tensor
        return name in self.shapes()


def shapes_of(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """By name. Lazy tensors are not read."""
    if isinstance(tensors, LazyTensors):
        return tensors.shapes()
    return {name: tensor.shape for name, tensor in tensors.items()}


class StoredTensors(LazyTensors):
    """The tensors of files; bfloat16 is that of ml_dtypes."""

    def __init__(self, files: Iterable[TensorFile]) -> None:
        self._files = {name: file for file in files for name in file.shapes()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[name].tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: file.shapes()[name] for name, file in self._files.items()}

    def read(self, names: Iterable[str] | None = None, rows: Rows = _all) -> Iterator[tuple[str, np.ndarray]]:
        """Those in `names`, or all, each once, in the order of the files. Only `rows` of them are read."""
        wanted = self._files.keys() if names is None else set(names)
        for file in dict.fromkeys(self._files.values()):
            yield from file.read(wanted & file.shapes().keys(), rows)


class LocalFile:
    """A file on this machine. Raises TrainingError if it is damaged."""

    def __init__(self, path: str) -> None:
        import ml_dtypes  # noqa: F401  (teaches numpy the name bfloat16)
        from safetensors import SafetensorError, safe_open

        try:
            self._file = safe_open(path, framework="numpy")
        except SafetensorError as error:
            raise _damaged(path, os.path.getsize(path), error) from error
        self._shapes = {name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.offset_keys()}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def tensor(self, name: str) -> np.ndarray:
        tensor: np.ndarray = self._file.get_tensor(name)
        return tensor

    def read(self, names: Collection[str], rows: Rows = _all) -> Iterator[tuple[str, np.ndarray]]:
        for name in self._shapes:
            if name in names:
                some = rows(name)
                yield name, self.tensor(name) if some is None else self._file.get_slice(name)[some]


class _Entry(NamedTuple):
    """A tensor in the header of a file. `start`, `stop`: its bytes, relative to the end of the header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    def only(self, rows: slice | None) -> _Entry:
        """Its part with these rows."""
        if rows is None:
            return self
        first, end, _ = rows.indices(self.shape[0])
        row = (self.stop - self.start) // self.shape[0] if self.shape[0] else 0
        return _Entry(self.dtype, (end - first, *self.shape[1:]), self.start + first * row, self.start + end * row)


class RemoteFile:
    """The file at `path` in an fsspec file system. `url`: its name in messages.

    Raises:
        TrainingError: the file is damaged.
    """

    def __init__(self, filesystem: AbstractFileSystem, path: str, url: str) -> None:
        self._filesystem, self._path, self._url = filesystem, path, url
        self._size = int(filesystem.size(path))
        try:
            self._entries = self._read_header()
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(url, self._size, error) from error
        self._shapes = {name: entry.shape for name, entry in self._entries.items()}

    def _read_header(self) -> dict[str, _Entry]:
        if self._size < 8:
            raise ValueError("it is too short for a header")
        length = int.from_bytes(self._bytes([(0, 8)]), "little")
        self._data = 8 + length
        if length > min(_LONGEST_HEADER, self._size - 8):
            raise ValueError(f"its header claims {length:,} bytes")
        return _entries(self._bytes([(8, self._data)]), self._size - self._data)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def tensor(self, name: str) -> np.ndarray:
        return dict(self.read([name]))[name]

    def read(self, names: Collection[str], rows: Rows = _all) -> Iterator[tuple[str, np.ndarray]]:
        wanted = {name: entry.only(rows(name)) for name, entry in self._entries.items() if name in names}
        for block in _blocks(wanted):
            yield from self._read_block(block)

    def _read_block(self, block: Mapping[str, _Entry]) -> Iterator[tuple[str, np.ndarray]]:
        import numpy as np

        ranges: list[tuple[int, int]] = []
        for entry in block.values():  # neighbours are read together
            joined = bool(ranges) and ranges[-1][1] == entry.start
            ranges.append((ranges.pop()[0] if joined else entry.start, entry.stop))
        data = memoryview(self._bytes([(self._data + start, self._data + stop) for start, stop in ranges]))
        place = 0
        for name, entry in block.items():
            part = data[place : place + entry.stop - entry.start]
            yield name, np.frombuffer(part, entry.dtype).reshape(entry.shape)
            place += len(part)

    def _bytes(self, ranges: Sequence[tuple[int, int]]) -> bytearray:
        """The bytes of all ranges, one after another."""
        requests = [
            (begin, min(begin + _REQUEST, stop)) for start, stop in ranges for begin in range(start, stop, _REQUEST)
        ]
        found = bytearray()
        for i in range(0, len(requests), _AT_ONCE):
            starts, stops = map(list, zip(*requests[i : i + _AT_ONCE], strict=True))
            for part in self._filesystem.cat_ranges([self._path] * len(starts), starts, stops, on_error="raise"):
                if isinstance(part, BaseException):  # concurrent file systems return it despite on_error
                    raise part
                found += part
        wanted = sum(stop - start for start, stop in ranges)
        if len(found) != wanted:
            raise _damaged(self._url, self._size, f"got {len(found):,} of {wanted:,} bytes at offset {ranges[0][0]:,}")
        return found


def _blocks(entries: Mapping[str, _Entry]) -> Iterator[dict[str, _Entry]]:
    """`entries` in parts of at most _BLOCK bytes, or of one entry."""
    block: dict[str, _Entry] = {}
    size = 0
    for name, entry in entries.items():
        length = entry.stop - entry.start
        if block and size + length > _BLOCK:
            yield block
            block, size = {}, 0
        block[name] = entry
        size += length
    if block:
        yield block


def _entries(header: bytes | bytearray, size: int) -> dict[str, _Entry]:
    """The tensors of a header by name, in the order of the file. `size`: bytes after the header.

    Raises:
        ValueError, TypeError, KeyError: it is not a valid safetensors header.
    """
    import ml_dtypes  # noqa: F401  (teaches numpy the name bfloat16)
    import numpy as np

    fields = json.loads(header)
    if not isinstance(fields, dict):
        raise ValueError("its header is not a JSON object")
    fields.pop("__metadata__", None)
    entries: dict[str, _Entry] = {}
    end = 0
    for name, field in sorted(fields.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = field["data_offsets"]
        if field["dtype"] not in _DTYPES:
            raise ValueError(f"tensor {name} is of type {field['dtype']!r}, which numpy does not have")
        entry = _Entry(np.dtype(_DTYPES[field["dtype"]]), tuple(field["shape"]), start, stop)
        if (
            min(entry.shape, default=0) < 0
            or start != end
            or stop - start != math.prod(entry.shape) * entry.dtype.itemsize
        ):
            raise ValueError(f"tensor {name} is {field}, which does not fit the tensors before it")
        entries[name], end = entry, stop
    if end != size:
        raise ValueError(f"its header lists {end:,} bytes of tensors, the file has {size:,}")
    return entries


def check_whole(path: str) -> None:
    """Raise TrainingError for a local file that does not hold what its header tells of. Reads the header alone."""
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(_LONGEST_HEADER, size - 8):
                raise ValueError(f"its header would have {length:,} bytes")
            fields = json.loads(file.read(length))
        end = max((field["data_offsets"][1] for name, field in fields.items() if name != "__metadata__"), default=0)
        if end != size - 8 - length:
            raise ValueError(f"its header tells of {end:,} bytes of tensors, there are {size - 8 - length:,}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, size, error) from error


def _damaged(path: str, size: int, why: object) -> TrainingError:
    return TrainingError(f"{path} ({size:,} bytes): expected safetensors: {why}; {AGAIN}")
