"""What survives a power cut on a local file system. A file's bytes and its name in its directory are two things.

Renaming or linking a file makes neither of them durable: after a cut the name may be there with no bytes behind it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


def sync_file(descriptor: int) -> None:
    """Put a file's bytes, or a directory's names, on the disk."""
    if sys.platform == "darwin":  # where fsync leaves them in the disk's own cache
        import fcntl

        with contextlib.suppress(OSError):  # a file system that does not know the call
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_directory(path: str) -> None:
    """Make new names in a directory survive a power cut."""
    with _opened(path) as descriptor:
        sync_file(descriptor)


def sync_tree(path: str, root: str) -> None:
    """Make everything below `path` survive a power cut, and its name in the directories above it, up to `root`.

    On Linux by one `syncfs`, which writes all that the file system has not yet written, other programs' files included.
    Ten thousand small files take 0.1 s by it, one by one 1.8 s; half a dozen 0.5 ms instead of 2.
    """
    if not os.path.isdir(path) or _sync_file_system(path):
        return
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in (*names, "")]
    above = os.path.dirname(path)
    paths.append(above)
    while above.startswith(f"{root}/"):
        above = os.path.dirname(above)
        paths.append(above)
    for file in paths:
        # Links that lead nowhere, and what the step's own children have removed meanwhile.
        with contextlib.suppress(FileNotFoundError), _opened(file) as descriptor:
            sync_file(descriptor)


def _sync_file_system(path: str) -> bool:
    """False where there is no such call."""
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
