"""Local files that survive a power cut. Object stores are durable by themselves.

The bytes of a file and its name in a directory are separate. Renaming or linking a file makes neither durable: after a
power cut, the name may exist without the bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import uuid
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from marin_sft.paths import file_system

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def is_local(filesystem: AbstractFileSystem) -> bool:
    """Whether an fsspec file system is the local one."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(filesystem, LocalFileSystem)


def sync(path: str) -> None:
    """Wait until a file, or a directory and everything below it, is on disk. It need not exist."""
    filesystem, plain = file_system(path)
    if not is_local(filesystem):
        return
    _sync_each([plain] if os.path.isfile(plain) else _all_in(plain))


def write_whole(path: str, text: str) -> None:
    """Write a file atomically: even after a power cut it has either all of `text` or its previous content."""
    filesystem, plain = file_system(path)
    folder, _, name = plain.rpartition("/")
    filesystem.makedirs(folder, exist_ok=True)
    if not is_local(filesystem):
        filesystem.pipe_file(plain, text.encode())
        return
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}"
    with open(temporary, "x") as file:
        file.write(text)
        file.flush()
        sync_file(file.fileno())
    os.replace(temporary, plain)
    sync_directory(folder)


def sync_file(descriptor: int) -> None:
    """Flush a file's bytes, or a directory's names, to disk."""
    if sys.platform == "darwin":  # where fsync leaves them in the disk's cache
        import fcntl

        with contextlib.suppress(OSError):  # a file system without this call
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_directory(path: str) -> None:
    """Make new names in a directory survive a power cut."""
    with _opened(path) as descriptor:
        sync_file(descriptor)


def sync_tree(path: str, root: str) -> None:
    """Make everything below `path` survive a power cut, and its name in the directories above it, up to `root`.

    On Linux this is one `syncfs`, which also flushes other programs' files. It takes 0.1 s for ten thousand small files
    instead of 1.8 s one by one, and 0.5 ms instead of 2 ms for half a dozen.
    """
    if not os.path.isdir(path) or _sync_file_system(path):
        return
    paths = _all_in(path)
    above = os.path.dirname(path)
    paths.append(above)
    while above.startswith(f"{root}/"):
        above = os.path.dirname(above)
        paths.append(above)
    _sync_each(paths)


def _all_in(path: str) -> list[str]:
    """A directory and everything below it. Each directory comes after its files, whose names it holds."""
    return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in (*names, "")]


def _sync_each(paths: Iterable[str]) -> None:
    for path in paths:
        # Broken links, and files that were removed meanwhile.
        with contextlib.suppress(FileNotFoundError), _opened(path) as descriptor:
            sync_file(descriptor)


def _sync_file_system(path: str) -> bool:
    """False if the system has no such call."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs"):
        return False
    with _opened(path) as descriptor:
        if library.syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    return True


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
