"""Objects under a prefix: local disk, memory://, gs://, s3://. Knows nothing about steps.

Everything relies on one primitive, `create_exclusive`: of several writers exactly one succeeds, and readers never see a
partial object. fsspec's exclusive mode is not atomic on local disk, so there are two implementations, `local_store` and
`object_store`. Paths are absolute paths or URLs; `Store.path` builds them from the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class FileInfo(NamedTuple):
    """An output file: path relative to the attempt, size in bytes, content digest if it is cheap to get."""

    path: str
    size: int
    digest: str | None


class Store(Protocol):
    """The few operations that the engine needs of a store.

    Failing calls are retried for a while, see `patience`. Then they raise StoreUnavailable.
    """

    prefix: str
    beat_seconds: float
    on_disk: bool
    """Whether it is a file system on this machine: calls need no round trip, and files can be appended to."""

    def path(self, relative: str) -> str:
        """The absolute path of one relative to the prefix. Absolute paths and URLs are returned unchanged."""
        ...

    def read(self, path: str) -> bytes | None:
        """The content, or None if there is no object."""
        ...

    def names(self, path: str) -> list[str]:
        """The sorted names of the direct children; empty if there is nothing."""
        ...

    def names_of(self, path: str, children: Sequence[str]) -> list[list[str]]:
        """`names` of each of these children of `path`, in their order; a single call on object stores."""
        ...

    def folders(self, path: str) -> list[str]:
        """The sorted names of the direct children that are directories."""
        ...

    def size(self, path: str) -> int:
        """The size of an object or of everything below it, in bytes; 0 if there is nothing."""
        ...

    def read_from(self, path: str, start: int, limit: int) -> bytes:
        """At most `limit` bytes of an object from offset `start`; empty at its end, or if there is no object."""
        ...

    def create_exclusive(self, path: str, data: bytes) -> bool:
        """Create the object atomically; False, with nothing changed, if it exists."""
        ...

    def create_private(self, path: str, data: bytes) -> None:
        """Create an object that only this user can read, if the store has file owners."""
        ...

    def replace(self, path: str, data: bytes, durable: bool = True) -> None:
        """Overwrite an object that has a single writer. Unless `durable`, a power cut may truncate it."""
        ...

    def sync(self, path: str) -> None:
        """Make everything written below `path` survive a power cut. Object stores do so by themselves."""
        ...

    def remove(self, path: str) -> None:
        """Remove an object or a tree. It need not exist."""
        ...

    def prune(self, path: str) -> None:
        """If the store has directories: remove this one if it is empty, then its parents, up to the prefix."""
        ...

    def make_directory(self, path: str) -> None: ...

    def point_latest(self, directory: str, attempt: str) -> None:
        """If the store has links: point `{directory}/latest` to the attempt, for people."""
        ...

    def files(self, path: str) -> list[FileInfo]:
        """All files below `path`, sorted, except those whose top-level name starts with a dot.

        Raises:
            StoreError: something is not a file, e.g. a broken link.
        """
        ...

    def sizes(self, path: str) -> dict[str, int]:
        """The names and sizes of `files`, at the cost of a listing."""
        ...
