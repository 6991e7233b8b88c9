"""The attempt's log: a copy of what its step prints."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TextIO

from marin_sft.execution.store import Store

_UPLOAD_RATE = 100_000  # bytes/s: an upload is the whole log, so a long one goes up less often


class AttemptLog:
    """`{output}/.log`. Object stores cannot append, so there the log is a local file that is uploaded now and then.

    own_process: nothing else writes to this process's stdout and stderr.
    echo: also write to stderr, which Ray's dashboard shows of a task. Without `own_process`, to both as they are. May
        be off only if `own_process`.
    name: of the file.
    """

    def __init__(self, store: Store, output: str, own_process: bool, echo: bool = True, name: str = ".log") -> None:
        self._store = store
        self._path = f"{output}/{name}"
        self._own_process = own_process
        self._echo = echo
        self._exit = contextlib.ExitStack()
        self._file = self._path
        self._shown: int | None = None  # the file descriptor of what Ray shows of this process
        self._uploaded = 0  # bytes
        self._next_upload = 0.0

    def __enter__(self) -> AttemptLog:
        if not self._store.on_disk:
            self._file = self._exit.enter_context(tempfile.NamedTemporaryFile(suffix=".log")).name
            self._exit.callback(self.upload, now=True)
        copied = process_output_copied_to(self._file, self._echo) if self._own_process else None
        self._shown = self._exit.enter_context(copied or _python_output_copied_to(self._file))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown = None
        self._exit.__exit__(kind, error, trace)

    def write(self, text: str) -> None:
        """To the log, and where Ray shows it, but not to a terminal."""
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(text)
        if self._shown is not None:
            os.write(self._shown, text.encode(errors="backslashreplace"))

    def since(self, position: int) -> bytes:
        """What was written after the first `position` bytes, also when the log is closed."""
        try:
            with open(self._file, "rb") as file:
                file.seek(position)
                return file.read()
        except FileNotFoundError:  # uploaded and removed
            return (self._store.read(self._path) or b"")[position:]

    def upload(self, now: bool = False) -> None:
        """Upload the log if it is due, or if `now` is set. Call it from one thread at a time.

        Raises:
            OSError: the store refused.
        """
        if self._file == self._path or not (now or time.monotonic() >= self._next_upload):
            return
        with open(self._file, "rb") as file:
            content = file.read()
        if len(content) > self._uploaded or now:
            self._store.replace(self._path, content)
            self._uploaded = len(content)
            self._next_upload = time.monotonic() + len(content) / _UPLOAD_RATE


@contextlib.contextmanager
def process_output_copied_to(path: str, echo: bool) -> Iterator[int | None]:
    """Copy what this process and its children write to stdout and stderr into `path`, output of C++ code included, and
    the stack if native code crashes.

    echo: also write it to stderr, whose file descriptor the block gets.

    It redirects file descriptors 1 and 2, so it is for worker processes that run one step at a time.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    reading, writing = os.pipe()
    with open(path, "ab", buffering=0) as log:
        shown = saved[1] if echo else None
        pump = threading.Thread(target=_pump, args=(reading, log.fileno(), shown), daemon=True)
        pump.start()
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        # Straight to the log: the thread that copies dies with the process.
        had_stacks = faulthandler.is_enabled()
        faulthandler.enable(log.fileno(), all_threads=False)
        try:
            yield shown
        finally:
            faulthandler.disable()
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            if had_stacks:
                faulthandler.enable(2, all_threads=False)
            pump.join(timeout=5)  # a child that is still running may hold the pipe open: do not wait for it
            for descriptor in saved:
                os.close(descriptor)


def _pump(reading: int, log: int, shown: int | None) -> None:
    with contextlib.suppress(OSError):
        while chunk := os.read(reading, 65536):
            os.write(log, chunk)
            if shown is not None:
                os.write(shown, chunk)
    os.close(reading)


@contextlib.contextmanager
def _python_output_copied_to(path: str) -> Iterator[None]:
    """Copy what Python code writes to sys.stdout and sys.stderr into `path`. Debuggers keep the terminal."""
    with open(path, "a", encoding="utf-8", errors="replace") as log:
        out, err = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Copied(out, log), _Copied(err, log)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = out, err


class _Copied:
    """A text stream that also writes to a log file."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._log.flush()
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
