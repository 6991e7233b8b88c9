"""Transfers one file: resumes it after a break, and checks it at the end.

A local file grows as `{name}.part`, and gets its name when it is complete and correct. In an object store, a file is
written in one go, and appears only when it is complete and correct.
"""

from __future__ import annotations

import email.utils
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar

from marin_sft.errors import DataError
from marin_sft.paths import file_system

if TYPE_CHECKING:
    from fsspec.spec import AbstractBufferedFile

MAX_TRIES = 8
"""In a row, without a byte of progress."""
LOOK_UPS = 3
"""How often to look up the name of a host that is not found."""
LONGEST_WAIT = 900.0
"""Seconds. A server that asks for a longer wait counts as refusing."""
PART = ".part"
R = TypeVar("R")
_logger = logging.getLogger(__name__)


class Transient(Exception):
    """An error that another try may avoid. `retry_after`: the header of that name."""

    def __init__(self, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoSuchHost(Transient):
    """The name of a host has no address."""


class Origin(Protocol):
    """Where bytes come from. Its `str` names it in messages, without secrets."""

    def read_from(self, offset: int, size: int | None) -> Iterator[bytes]:
        """Bytes from `offset` on, maybe not to the end. `size`: that of the whole file, if known. Raises Transient."""
        ...


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch.

    name: its path below the output.
    size: in bytes, if known.
    digest: "sha256:..." of the content, "git:..." for the id of a git blob, or None.
    """

    name: str
    origin: Origin
    size: int | None
    digest: str | None


def patiently(call: Callable[[], R], sleep: Callable[[float], None] = time.sleep) -> R:
    """`call()`, repeated with growing waits while it raises Transient.

    Raises:
        DataError: it failed `MAX_TRIES` times, or the host was not found `LOOK_UPS` times.
    """
    for attempt in range(MAX_TRIES):
        try:
            return call()
        except Transient as error:
            # Only here, before the first byte: a host that has answered exists.
            if isinstance(error, NoSuchHost) and attempt + 1 >= LOOK_UPS:
                raise DataError(str(error)) from error
            _wait(error, attempt, sleep)
    raise AssertionError("unreachable: the last wait raises")


def fetch(
    file: RemoteFile,
    directory: str,
    earlier: Sequence[str] = (),
    sleep: Callable[[float], None] = time.sleep,
    moved: Callable[[int], None] = lambda size: None,
) -> int:
    """Fetch `file` into `directory`, and return its size in bytes.

    Args:
        directory: a local path or any fsspec URL.
        earlier: directories of earlier attempts, whose files are reused.
        moved: called with the number of bytes, each time some arrive.

    Raises:
        DataError: it does not arrive, or has the wrong size or digest.
    """
    if "://" in directory:
        return _fetch_to_store(file, directory, earlier, sleep, moved)
    return _fetch_to_disk(file, directory, earlier, sleep, moved)


def _fetch_to_disk(
    file: RemoteFile,
    directory: str,
    earlier: Sequence[str],
    sleep: Callable[[float], None],
    moved: Callable[[int], None],
) -> int:
    path = os.path.join(directory, file.name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for there in (os.path.join(attempt, file.name) for attempt in earlier):
        if os.path.isfile(there) and file.size in (None, size := os.path.getsize(there)):
            _link_or_copy(there, path)
            moved(size)
            return size
    _copy_longest_part(file, path + PART, earlier)
    for last_go in (False, True):
        with open(path + PART, "ab") as sink:
            arrived = _Arrived(file)
            arrived.add_file(path + PART)
            moved(arrived.size)
            _transfer(file, arrived, sink, sleep, moved)
            sink.flush()
            os.fsync(sink.fileno())
        if not (wrong := arrived.wrong()):
            os.replace(path + PART, path)
            return arrived.size
        os.remove(path + PART)
        _start_over(wrong, last_go)
        moved(-arrived.size)
    raise AssertionError("unreachable: the last go returns or raises")


def _fetch_to_store(
    file: RemoteFile,
    directory: str,
    earlier: Sequence[str],
    sleep: Callable[[float], None],
    moved: Callable[[int], None],
) -> int:
    fs, root = file_system(directory)
    path = f"{root.rstrip('/')}/{file.name}"
    for there in (f"{fs._strip_protocol(attempt)}/{file.name}" for attempt in earlier):
        if fs.exists(there) and file.size in (None, size := int(fs.info(there)["size"])):
            fs.cp_file(there, path)
            moved(size)
            return size
    for last_go in (False, True):
        arrived = _Arrived(file)
        sink = fs.open(path, "wb")
        try:
            _transfer(file, arrived, sink, sleep, moved)
            wrong = arrived.wrong()
        except BaseException:
            _discard(sink)
            raise
        if not wrong:
            sink.close()
            return arrived.size
        _discard(sink)
        _start_over(wrong, last_go)
        moved(-arrived.size)
    raise AssertionError("unreachable: the last go returns or raises")


class _Arrived:
    """The size and the digest of what arrived so far of a file."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._kind, _, self._expected = (file.digest or "").partition(":")
        self._hash = hashlib.sha1(b"blob %d\0" % (file.size or 0)) if self._kind == "git" else hashlib.sha256()
        self.size = 0

    def add(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self.size += len(chunk)

    def add_file(self, path: str) -> None:
        with open(path, "rb") as there:
            while chunk := there.read(1 << 20):
                self.add(chunk)

    def wrong(self) -> str | None:
        """What is wrong with the complete file, if anything."""
        if self._file.size not in (None, self.size):
            return f"{self._file.origin}: got {self.size} bytes, expected {self._file.size}"
        if self._expected and self._hash.hexdigest() != self._expected:
            return f"{self._file.origin}: got {self._kind} {self._hash.hexdigest()}, expected {self._expected}"
        return None


def _transfer(
    file: RemoteFile, arrived: _Arrived, sink: BinaryIO, sleep: Callable[[float], None], moved: Callable[[int], None]
) -> None:
    """Write the missing bytes to `sink`, and resume whenever the transfer breaks off."""
    attempt = 0
    while file.size is None or arrived.size < file.size:
        before = arrived.size
        try:
            for chunk in file.origin.read_from(before, file.size):
                sink.write(chunk)
                arrived.add(chunk)
                moved(len(chunk))
            if file.size is None:
                return
            if arrived.size == before:
                raise Transient(f"{file.origin}: got no bytes from {before} on, expected {file.size} in all")
        except Transient as error:
            attempt = 0 if arrived.size > before else attempt
            _wait(error, attempt, sleep)
            attempt += 1


def _copy_longest_part(file: RemoteFile, part: str, earlier: Sequence[str]) -> None:
    """Begin with what an earlier attempt got. Without a digest to check the result, begin from zero."""
    parts = [os.path.join(attempt, file.name) + PART for attempt in earlier] if file.digest else []
    parts = [there for there in parts if os.path.isfile(there)]
    if parts:
        shutil.copyfile(max(parts, key=os.path.getsize), part)


def _link_or_copy(there: str, path: str) -> None:
    try:
        os.link(there, path)
    except OSError:  # another file system, or one without links
        shutil.copyfile(there, path + PART)
        os.replace(path + PART, path)


def _discard(sink: AbstractBufferedFile) -> None:
    """Abandon a file that is being written to an object store, so that nothing of it appears."""
    sink.discard()
    sink.closed = True  # or garbage collection would still write it


def _start_over(wrong: str, last_go: bool) -> None:
    if last_go:
        raise DataError(f"{wrong}, twice; the file does not match the listing or the configuration")
    _logger.warning("%s; fetching it again", wrong)


def _wait(error: Transient, attempt: int, sleep: Callable[[float], None]) -> None:
    """Sleep before the next try, as long as the server asks, else twice as long each time, at most a minute."""
    asked = _seconds(error.retry_after)
    if attempt + 1 >= MAX_TRIES:
        raise DataError(f"{error}; gave up after {MAX_TRIES} tries; run again to continue from here") from error
    if asked is not None and asked > LONGEST_WAIT:
        raise DataError(
            f"{error}; the server asks to wait {asked:.0f} s; run again after that to continue from here"
        ) from error
    wait = min(60.0, 2.0**attempt) if asked is None else asked
    _logger.warning("%s; trying again in %.0f s", error, wait)
    sleep(wait)


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After is a number of seconds or a date (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    try:
        return float(retry_after)
    except ValueError:
        pass
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # not a date, or one without a time zone
        return None
