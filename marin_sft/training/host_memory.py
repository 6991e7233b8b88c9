"""Whether the host has room for something that training can do without."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from marin_sft.training.metrics.memory import host_peak


def has_room(size: int) -> bool:
    """Whether this process can hold `size` more bytes, and still use as much for a moment as it has at its peak."""
    free = min(_free(), default=None)
    return free is None or size + host_peak() - _used() <= free


def capacity() -> int | None:
    """The most bytes that this process could use if it were alone. None: not known."""
    return min(_limits(), default=None)


def _limits() -> Iterator[int]:
    """Of the machine, and of the control groups that this process is in."""
    with contextlib.suppress(OSError, KeyError):  # not Linux
        yield _fields("/proc/meminfo")["MemTotal:"] * 1024
    for folder in _groups():
        with contextlib.suppress(OSError, ValueError):  # no limit, or not a group
            yield int((folder / "memory.max").read_text())


def _free() -> Iterator[int]:
    """Bytes, by each limit that is known."""
    with contextlib.suppress(OSError, KeyError):  # not Linux
        yield _fields("/proc/meminfo")["MemAvailable:"] * 1024
    for folder in _groups():
        with contextlib.suppress(OSError, ValueError, KeyError):  # no limit, or not a group
            limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
            yield limit - used + _fields(folder / "memory.stat")["inactive_file"]  # which the kernel drops when needed


def _groups() -> list[Path]:
    """The folders of the control groups that this process is in."""
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
    except OSError:  # not Linux
        return []
    group = Path("/sys/fs/cgroup", own)
    return [group, *group.parents]


def _fields(path: str | Path) -> dict[str, int]:
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {name: int(value) for name, value, *_ in lines}


def _used() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
