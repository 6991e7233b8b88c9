"""Local files that survive a power cut. What an object store has taken stays there anyway."""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from marin_sft.paths import file_system


def is_local(filesystem: Any) -> bool:
    """Whether an fsspec file system is that of this machine."""
    return isinstance(filesystem, LocalFileSystem)


def sync(path: str) -> None:
    """Wait until a file, or a directory with all below it, is on the disk; it may be nowhere."""
    filesystem, plain = file_system(path)
    if not is_local(filesystem):
        return
    for folder, _, names in os.walk(plain):
        for name in names:
            _sync(os.path.join(folder, name))
        _sync(folder)  # after its files: their names are in it
    if os.path.isfile(plain):
        _sync(plain)


def write_whole(path: str, text: str) -> None:
    """Write a file that is either there with all of `text`, also after a power cut, or as it was before."""
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
        os.fsync(file.fileno())
    os.replace(temporary, plain)
    _sync(folder)


def _sync(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # gone meanwhile
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
