"""Runs a command, and ends it with all that it started when this process' stdin closes: also if who holds it is killed.

A program of its own, of the standard library alone: `python guard.py COMMAND...`. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

SET_CHILD_SUBREAPER = 36  # of prctl: orphans of the command become children of this process
GRACE_SECONDS = 10.0


def main(command: list[str]) -> int:
    """The exit code of `command`, as a shell gives it; 0 if it was ended from here."""
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_when_alone, args=(started,), daemon=True).start()
    code = started.wait()
    _end_all(signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _end_when_alone(started: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    with suppress(ProcessLookupError):
        started.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    while started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _end_all(signal.SIGKILL)
    os._exit(0)


def _end_all(how: signal.Signals) -> None:
    """Until this process has no descendants."""
    while found := _descendants(os.getpid()):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _descendants(of: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{entry}/stat") as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(entry))
    found, level = set[int](), [of]
    while level:
        level = [child for pid in level for child in children.get(pid, ()) if child not in found]
        found.update(level)
    return found


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # the thread still reads stdin
