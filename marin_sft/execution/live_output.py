"""Shows the output of running steps live, each line prefixed with the step's name.

Reads the attempts' .log files, which are complete. Ray's own log stream adds process ids and loses lines when a launch
ends. On an object store a log is as recent as its last upload.

If a step writes too fast, each poll shows the newest lines and the number of omitted ones. So the time and memory of a
poll do not grow with the log.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from marin_sft.execution.patience import no_patience
from marin_sft.execution.store import Store

_LOCAL_SECONDS = 0.3  # between two polls
_CHUNK = 1 << 20  # bytes read at once
_MOST_LINES = 1000  # shown of all logs per poll,
_FEWEST_LINES = 20  # but at least this many of each log
_MOST_CHARACTERS = 100_000  # of a log's lines per poll
_LONGEST_LINE = 4000  # characters


@dataclass
class _Log:
    """A followed log.

    rest: the beginning of an incomplete line, no longer than is shown.
    newest: lines to show.
    left_out: the number of lines omitted before them.
    """

    path: str
    offset: int = 0
    rest: bytes = b""
    newest: deque[str] = field(default_factory=deque)
    characters: int = 0
    left_out: int = 0

    def add(self, added: bytes, most: int) -> None:
        *lines, self.rest = (self.rest + added).split(b"\n")
        if len(self.rest) > _CHUNK:
            # Keep the last state of a progress bar, or the beginning of a long line.
            self.rest = self.rest[-_LONGEST_LINE:] if b"\r" in self.rest[-_LONGEST_LINE:] else self.rest[:_CHUNK]
        skipped = max(0, len(lines) - most)
        self._leave_out(len(self.newest) if skipped else 0)
        self.left_out += skipped
        for line in lines[skipped:]:
            text = line_text(line)
            if text.strip():
                self.newest.append(text)
                self.characters += len(self.newest[-1])
        while len(self.newest) > most or self.characters > _MOST_CHARACTERS:
            self._leave_out(1)

    def _leave_out(self, lines: int) -> None:
        for _ in range(lines):
            self.characters -= len(self.newest.popleft())
        self.left_out += lines


def line_text(line: bytes) -> str:
    """A line of a log. A progress bar redraws itself after carriage returns: its last state."""
    text = line[-_CHUNK:].decode(errors="replace").rstrip("\r").rpartition("\r")[2]
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}... (cut short)"


class LiveOutput:
    """Follows the logs of running steps.

    Calls `show(name, line)` for each line, and `shown()` after the lines of each poll. Calls never overlap.
    """

    def __init__(
        self, store: Store, show: Callable[[str, str], None], shown: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._show = show
        self._shown = shown
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
        """Show what is written to the log at `path` from now on. The log need not exist yet."""
        self.stop(name)
        with self._lock:
            self._logs[name] = _Log(path)

    def stop(self, name: str) -> None:
        """Show the rest of the step's log and stop following it."""
        with self._lock:
            log = self._logs.pop(name, None)
            if log is None:
                return
            self._look(name, log, ended=True)

    @no_patience()
    def _poll(self) -> None:
        seconds = _LOCAL_SECONDS if self._store.on_disk else self._store.beat_seconds
        while not self._ended.wait(seconds):
            with self._lock:
                for name, log in self._logs.items():
                    self._look(name, log)

    def _look(self, name: str, log: _Log, ended: bool = False) -> None:
        most = max(_FEWEST_LINES, _MOST_LINES // (len(self._logs) + ended))
        try:
            while added := self._store.read_from(log.path, log.offset, _CHUNK):
                log.offset += len(added)
                log.add(added, most)
        except OSError:  # try again at the next poll
            pass
        if ended and log.rest:
            log.add(b"\n", most)
        if log.left_out:
            self._show(name, f"... {log.left_out:,} lines omitted; all are in {log.path}")
        for line in log.newest:
            self._show(name, line)
        self._shown()
        log.newest.clear()
        log.characters = log.left_out = 0
