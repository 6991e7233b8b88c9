"""A step's output on screen, kept in a file as well."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO


@contextlib.contextmanager
def process_output_copied_to(path: str) -> Iterator[None]:
    """Copy all that this process and its children write to stdout and stderr into `path`, also from C++ code.

    For a worker process that runs one step at a time: it works on file descriptors 1 and 2.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    reading, writing = os.pipe()
    with open(path, "ab", buffering=0) as log:
        pump = threading.Thread(target=_pump, args=(reading, saved[0], log.fileno()), daemon=True)
        pump.start()
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            pump.join(timeout=5)  # a child left behind may hold the pipe open: what it writes is not waited for
            for descriptor in saved:
                os.close(descriptor)


def _pump(reading: int, *targets: int) -> None:
    with contextlib.suppress(OSError):
        while chunk := os.read(reading, 65536):
            for target in targets:
                os.write(target, chunk)
    os.close(reading)


@contextlib.contextmanager
def python_output_copied_to(path: str) -> Iterator[None]:
    """Copy what Python code writes to sys.stdout and sys.stderr into `path`; debuggers keep their terminal."""
    with open(path, "a", encoding="utf-8", errors="replace") as log:
        out, err = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Copied(out, log), _Copied(err, log)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = out, err


class _Copied:
    """A text stream that writes to a file, too; all else is the stream's."""

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
