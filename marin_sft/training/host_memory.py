"""Whether the host has room for something that training can do without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from marin_sft.training.metrics.memory import host_peak


def has_room(size: int) -> bool:
    """Whether this process can hold `size` more bytes, and still use as much for a moment as it has at its peak."""
    free = min(_free(), default=None)
    return free is None or size + host_peak() - _used() <= free


def _free() -> Iterator[int]:
    """Bytes, by each limit that is known: the machine's, and those of the control groups that this process is in."""
    try:
        yield _fields("/proc/meminfo")["MemAvailable:"] * 1024
        group = Path("/sys/fs/cgroup", Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/"))
    except (OSError, KeyError):  # not Linux
        return
    for folder in (group, *group.parents):
        try:
            limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
            yield limit - used + _fields(folder / "memory.stat")["inactive_file"]  # which the kernel drops when needed
        except (OSError, ValueError, KeyError):  # no limit, or not a group
            continue


def _fields(path: str | Path) -> dict[str, int]:
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {name: int(value) for name, value, *_ in lines}


def _used() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
