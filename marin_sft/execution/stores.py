"""Opening the store at a prefix, and checking that it excludes concurrent launches."""

from __future__ import annotations

import uuid

from marin_sft.errors import StoreError
from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.object_store import FsspecStore
from marin_sft.execution.store import Store


def open_store(prefix: str) -> Store:
    """The store at `prefix`: a path or a URL. Reads and writes nothing.

    Raises:
        StoreError: a protocol without create-exclusive.
    """
    protocol, separator, rest = prefix.partition("://")
    if not separator or protocol == "file":
        return LocalStore(rest if separator else prefix)
    return FsspecStore(protocol, prefix)


def probe(store: Store) -> None:
    """Check that the prefix is writable and that its create-exclusive works.

    Raises:
        StoreError: one of the two fails; says what was tried.
    """
    path = store.path(f"_probe/{uuid.uuid4().hex}")
    try:
        first, second = store.create_exclusive(path, b"1"), store.create_exclusive(path, b"2")
        kept = store.read(path)
        store.remove(path)
    except OSError as error:
        said = getattr(error, "said", None) or error
        raise StoreError(f"prefix {store.prefix}: cannot be written: {said}; choose another with --prefix") from error
    if (first, second, kept) != (True, False, b"1"):
        raise StoreError(
            f"prefix {store.prefix}: expected the second create of {path} to be refused, "
            f"got {(first, second, kept)}; this file system cannot keep two launches apart; choose another prefix"
        )
