"""What running steps write, on the screen as they write it: each line after the step's name.

Reads the attempts' .log files, which are complete. Ray's own stream of its workers' output adds process numbers, and
what it has not passed on when a launch ends is not shown. On an object store a log is as new as its last upload.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.patience import no_patience
from marin_sft.execution.store import Store

_LOCAL_SECONDS = 0.3  # between two looks at the logs


@dataclass
class _Log:
    path: str
    offset: int = 0
    rest: bytes = b""  # of a line that is not complete yet


class LiveOutput:
    """Follows the logs of the steps it is told of. `show(name, line)` gets each line; calls never overlap."""

    def __init__(self, store: Store, show: Callable[[str, str], None]) -> None:
        self._store = store
        self._show = show
        self._logs: dict[str, _Log] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> LiveOutput:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        for name in list(self._logs):
            self.stop(name)

    def follow(self, name: str, path: str) -> None:
        """From now on show what is added to the log at `path`, which need not be there yet."""
        self.stop(name)
        with self._lock:
            self._logs[name] = _Log(path)

    def stop(self, name: str) -> None:
        """Show what is left of the step's log, to its last line, and follow it no longer."""
        with self._lock:
            log = self._logs.pop(name, None)
            if log is None:
                return
            self._read(name, log)
            if log.rest:
                self._add(name, log, b"\n")

    @no_patience()
    def _poll(self) -> None:
        seconds = _LOCAL_SECONDS if isinstance(self._store, LocalStore) else self._store.beat_seconds
        while not self._ended.wait(seconds):
            with self._lock:
                for name, log in self._logs.items():
                    self._read(name, log)

    def _read(self, name: str, log: _Log) -> None:
        try:
            added = self._store.read_from(log.path, log.offset)
        except OSError:  # out of reach for a moment
            return
        log.offset += len(added)
        self._add(name, log, added)

    def _add(self, name: str, log: _Log, added: bytes) -> None:
        *lines, log.rest = (log.rest + added).split(b"\n")
        for line in lines:
            # A progress bar draws itself again and again after a carriage return: its last state is the line.
            text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
            if text.strip():
                self._show(name, text)
