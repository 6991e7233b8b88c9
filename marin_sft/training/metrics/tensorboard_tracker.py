"""Metrics as TensorBoard event files: see `trackers.TensorboardConfig`.

A file is a sequence of records (length, checksum, bytes, checksum). Each record is an `Event` message of
tensorflow/core/util/event.proto. We write its wall time, step, scalars, histograms, and the start of a session.
"""

from __future__ import annotations

import functools
import os
import struct
import time
from collections.abc import Iterable, Mapping

import numpy as np

from marin_sft import disk
from marin_sft.paths import file_system
from marin_sft.training.metrics.tracker import Histograms
from marin_sft.training.models.model_config import Fields

DIRECTORY = "tensorboard"
_CRC32C = 0x82F63B78  # the Castagnoli polynomial, bits reversed


class TensorboardTracker:
    """Appends to one file. Object stores cannot append: there it is written with each checkpoint and at the end."""

    def __init__(self, output_path: str, resumed: Fields | None = None) -> None:
        """`resumed`: the `state` of the attempt that this one resumes. Its files are copied."""
        self._filesystem, plain = file_system(output_path)
        self._directory, self._resumes = f"{plain}/{DIRECTORY}", bool(resumed)
        self._appends = disk.is_local(self._filesystem)
        self._written = b""
        self._filesystem.makedirs(self._directory, exist_ok=True)
        if resumed:
            self._take_over(resumed["directory"])
        # TensorBoard reads a directory's files in the order of their names.
        self._path = f"{self._directory}/events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._write(_string(3, "brain.Event:2"))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._add(step, (_string(1, name) + _float(2, value) for name, value in figures.items()))

    def log_histograms(self, step: int, histograms: Histograms) -> None:
        self._add(step, (_string(1, name) + _bytes(5, _histogram(*found)) for name, found in histograms.items()))

    def state(self) -> Fields:
        self._flush()
        return {"directory": self._directory}

    def close(self, *, failed: bool) -> None:
        self._flush()

    def _take_over(self, directory: str) -> None:
        if directory == self._directory or not self._filesystem.isdir(directory):
            return
        for path in self._filesystem.ls(directory, detail=False):
            self._filesystem.cp_file(path, f"{self._directory}/{path.rpartition('/')[2]}")

    def _add(self, step: int, values: Iterable[bytes]) -> None:
        if self._resumes:  # discards what the earlier attempt logged from this step on
            self._write(_integer(2, step) + _bytes(7, _integer(1, 1)))
            self._resumes = False
        self._write(_integer(2, step) + _bytes(5, b"".join(_bytes(1, value) for value in values)))

    def _write(self, event: bytes) -> None:
        event = _double(1, time.time()) + event
        length = struct.pack("<Q", len(event))
        record = length + struct.pack("<I", masked_crc32c(length)) + event + struct.pack("<I", masked_crc32c(event))
        if self._appends:
            with self._filesystem.open(self._path, "ab") as file:
                file.write(record)
        else:
            self._written += record

    def _flush(self) -> None:
        if not self._appends:
            self._filesystem.pipe_file(self._path, self._written)


def _histogram(counts: np.ndarray, edges: np.ndarray) -> bytes:
    """Sums use the middles of the bins."""
    middles = (edges[:-1] + edges[1:]) / 2
    figures = (edges[0], edges[-1], counts.sum(), (counts * middles).sum(), (counts * middles**2).sum())
    message = b"".join(_double(field, value) for field, value in enumerate(figures, start=1))
    return message + _doubles(6, edges[1:]) + _doubles(7, counts)


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low]) if not rest else bytes([low | 0x80]) + _varint(rest)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _string(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _doubles(field: int, values: np.ndarray) -> bytes:
    return _bytes(field, np.asarray(values, "<f8").tobytes())


def masked_crc32c(data: bytes) -> int:
    """The checksum of records: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/lib/hash/crc32c.h."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _table()[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _table() -> tuple[int, ...]:
    def entry(crc: int) -> int:
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC32C if crc & 1 else 0)
        return crc

    return tuple(entry(byte) for byte in range(256))
