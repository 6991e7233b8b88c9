"""The identity of a process, and whether it has ended."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessIdentity:
    """Enough to tell, on the same machine and in the same pid namespace, whether a process has ended."""

    host: str
    pid: int
    boot_id: str | None
    pid_namespace: str | None
    start_time: str | None

    @staticmethod
    def current() -> ProcessIdentity:
        return ProcessIdentity.of(os.getpid())

    @staticmethod
    def of(pid: int) -> ProcessIdentity:
        """The identity of a process on this machine, as the calling process sees it."""
        return ProcessIdentity(socket.gethostname(), pid, _boot_id(), _pid_namespace(), _start_time(pid))

    @property
    def in_sight(self) -> bool:
        """Whether this process can see that one: same machine, same boot, same pid namespace."""
        return self.boot_id is not None and (self.boot_id, self.pid_namespace) == (_boot_id(), _pid_namespace())

    def is_gone(self) -> bool:
        """Whether the process is known to have ended. False if it is alive or not in sight."""
        return self.in_sight and _start_time(self.pid) != self.start_time


def descendants(of: int) -> dict[int, str]:
    """The descendants of a process, with their short names; Linux only."""
    parents: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        stat = _read_text(f"/proc/{entry}/stat") if entry.isdigit() else None
        if stat is not None:
            head, _, rest = stat.rpartition(")")
            state, parent = rest.split()[:2]
            if state not in "ZX":
                names[int(entry)] = head.partition("(")[2]
                parents.setdefault(int(parent), []).append(int(entry))
    found, level = dict[int, str](), [of]
    while level:
        level = [child for pid in level for child in parents.get(pid, ())]
        found |= {pid: names[pid] for pid in level}
    return found


def _boot_id() -> str | None:
    return _read_text("/proc/sys/kernel/random/boot_id")


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _start_time(pid: int) -> str | None:
    """The start of the process in clock ticks after boot; None if it has ended or is a zombie."""
    stat = _read_text(f"/proc/{pid}/stat")
    if stat is None:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return None if fields[0] in "ZX" else fields[19]


def _read_text(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None
