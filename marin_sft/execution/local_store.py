"""A store on a local disk, or on a shared one with hard links. Uses os calls: fsspec would double a step's overhead."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from marin_sft.disk import sync_directory, sync_file, sync_tree
from marin_sft.errors import StoreError
from marin_sft.execution.patience import once, patient
from marin_sft.execution.store import FileInfo

READ_BACK_LIMIT = 4 * 2**30  # bytes: larger outputs are not read back for a digest
_PRUNED = 20  # retries when another process prunes a folder before the writer has used it

LATEST = "latest"
"""In the directory of a step, a link to its newest output, for people."""


class LocalStore:
    """See `Store`. `create_exclusive` makes a hard link to a complete file."""

    beat_seconds = 1.0
    on_disk = True

    def __init__(self, prefix: str) -> None:
        self.prefix = os.path.abspath(os.path.expanduser(prefix))

    def path(self, relative: str) -> str:
        return os.path.join(self.prefix, relative) if relative else self.prefix

    @patient
    def read(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    @patient
    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def names_of(self, path: str, children: Sequence[str]) -> list[list[str]]:
        return [self.names(f"{path}/{child}") for child in children]

    @patient
    def folders(self, path: str) -> list[str]:
        try:
            with os.scandir(path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    @patient
    def size(self, path: str) -> int:
        paths = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names] or [path]
        total = 0
        for file in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                total += os.lstat(file).st_size
        return total

    @patient
    def read_from(self, path: str, start: int, limit: int) -> bytes:
        try:
            with open(path, "rb") as file:
                file.seek(start)
                return file.read(limit)
        except (FileNotFoundError, NotADirectoryError):
            return b""

    @once  # if it failed after the link, a second call would mistake its own object for another writer's
    def create_exclusive(self, path: str, data: bytes) -> bool:
        temporary = self._write_temporary(path, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        sync_directory(os.path.dirname(path))
        return True

    def create_private(self, path: str, data: bytes) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(data)

    @patient
    def replace(self, path: str, data: bytes, durable: bool = True) -> None:
        os.replace(self._write_temporary(path, data, durable), path)
        if durable:
            sync_directory(os.path.dirname(path))

    @patient
    def sync(self, path: str) -> None:
        sync_tree(path, self.prefix)

    @patient
    def remove(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def prune(self, path: str) -> None:
        while path != self.prefix and path.startswith(self.prefix):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError:
                return  # not empty
            path = os.path.dirname(path)

    @patient
    def make_directory(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def point_latest(self, directory: str, attempt: str) -> None:
        temporary = os.path.join(directory, f".latest-{uuid.uuid4().hex}")
        os.symlink(attempt, temporary)
        try:
            os.replace(temporary, os.path.join(directory, LATEST))
        except OSError:
            os.unlink(temporary)
            raise

    @patient
    def files(self, path: str) -> list[FileInfo]:
        sizes = self.sizes(path)
        read_back = sum(sizes.values()) <= READ_BACK_LIMIT
        return [
            FileInfo(name, size, _file_digest(f"{path}/{name}") if read_back else None) for name, size in sizes.items()
        ]

    @patient
    def sizes(self, path: str) -> dict[str, int]:
        return {relative: _size(file) for relative, file in sorted(self._walk(path))}

    def _walk(self, path: str) -> list[tuple[str, str]]:
        found = []
        for folder, folders, names in os.walk(path):
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in (*names, *links):
                file = os.path.join(folder, name)
                relative = os.path.relpath(file, path).replace(os.sep, "/")
                if not relative.startswith("."):
                    found.append((relative, file))
        return found

    def _write_temporary(self, path: str, data: bytes, durable: bool = True) -> str:
        folder, name = os.path.split(path)
        temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
        with _open_in_new_folder(temporary) as file:
            file.write(data)
            if durable:
                file.flush()
                sync_file(file.fileno())
        return temporary


def _size(path: str) -> int:
    """The size of a file; 0 for a link to a directory, whose contents do not belong to the output.

    Raises:
        StoreError: it is neither.
    """
    if os.path.isfile(path):
        return os.path.getsize(path)
    if os.path.isdir(path):
        return 0
    what = "a broken link" if os.path.islink(path) else "neither a file nor a directory"
    raise StoreError(f"{path} is {what}; expected a file. Let the step remove it or write a file")


def _file_digest(path: str) -> str:
    if os.path.isdir(path):
        return hashlib.sha256(os.readlink(path).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_in_new_folder(path: str) -> BinaryIO:
    """Retries, because another process may prune the empty folder between the two calls."""
    for attempt in itertools.count():
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return open(path, "xb")
        except FileNotFoundError:
            if attempt == _PRUNED:
                raise
    raise AssertionError("the last round returns or raises")
