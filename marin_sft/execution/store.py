"""Objects under a prefix: local disk, memory://, gs://, s3://. Knows nothing of steps.

The one primitive everything else rests on is `create_exclusive`: of any number of writers exactly one succeeds, and
no reader ever sees half of it. fsspec's own exclusive mode is not atomic on local disk, hence two implementations:
`local_store` and `object_store`.
Paths are absolute (or URLs); `Store.path` makes them from the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class FileInfo(NamedTuple):
    """An output file: path relative to the attempt, size in bytes, content digest if it comes for free or cheaply."""

    path: str
    size: int
    digest: str | None


class Store(Protocol):
    """Narrow on purpose: what the engine needs of a place, and no more.

    What fails is asked again for a while; see `patience`. Then methods raise StoreUnavailable.
    """

    prefix: str
    beat_seconds: float
    on_disk: bool
    """Whether it is a file system of this machine: what is asked of it costs no round trip, and files can be appended
    to."""

    def path(self, relative: str) -> str:
        """An absolute path for one relative to the prefix; absolute ones and URLs stay as they are."""
        ...

    def read(self, path: str) -> bytes | None:
        """The bytes, or None where there is nothing."""
        ...

    def names(self, path: str) -> list[str]:
        """The names of the direct children, sorted; empty where there is nothing."""
        ...

    def names_of(self, path: str, children: Sequence[str]) -> list[list[str]]:
        """`names` of some of the direct children of `path`, looked at in their order; one call on object stores."""
        ...

    def folders(self, path: str) -> list[str]:
        """The names of those direct children that have children themselves, or may have; sorted."""
        ...

    def size(self, path: str) -> int:
        """Bytes in an object or in all below it; 0 where there is nothing."""
        ...

    def read_from(self, path: str, start: int, limit: int) -> bytes:
        """At most `limit` bytes beyond an object's first `start`; nothing where there is no more, or no object."""
        ...

    def create_exclusive(self, path: str, data: bytes) -> bool:
        """Create the object whole; False, and nothing changed, when it exists."""
        ...

    def create_private(self, path: str, data: bytes) -> None:
        """Create an object that, where files have owners, only this user may read."""
        ...

    def replace(self, path: str, data: bytes, durable: bool = True) -> None:
        """Write over an object that has one writer only. Not `durable`: a power cut may leave it empty or cut short."""
        ...

    def sync(self, path: str) -> None:
        """Make all that was written below `path` survive a power cut; object stores see to that themselves."""
        ...

    def remove(self, path: str) -> None:
        """Remove an object or a tree; nothing there is no error."""
        ...

    def prune(self, path: str) -> None:
        """Where there are directories: remove this one if it is empty, then those above it, up to the prefix."""
        ...

    def make_directory(self, path: str) -> None: ...

    def point_latest(self, directory: str, attempt: str) -> None:
        """Where there are links: make `{directory}/latest` lead people to the attempt."""
        ...

    def files(self, path: str) -> list[FileInfo]:
        """Every file below `path`, sorted, without those whose top-level name starts with a dot.

        Raises:
            StoreError: for what is no file, such as a link that leads nowhere.
        """
        ...

    def sizes(self, path: str) -> dict[str, int]:
        """The names and sizes of `files`, for the price of a listing."""
        ...
