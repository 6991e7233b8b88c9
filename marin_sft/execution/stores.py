"""Opening the store at a prefix, and checking that it excludes concurrent launches."""

from __future__ import annotations

import socket
import time
import uuid
from urllib.parse import urlsplit

from marin_sft.errors import StoreError, StoreUnavailable
from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.object_store import FsspecStore, endpoint_of
from marin_sft.execution.patience import seconds_of_patience
from marin_sft.execution.store import Store

_LOOKING_UP = 3.0  # seconds for the name of a host
_PAUSE = 0.5


def open_store(prefix: str) -> Store:
    """The store at `prefix`: a path or a URL. Reads and writes nothing.

    Raises:
        StoreError: an empty prefix, which would be the working directory, or a protocol without create-exclusive.
    """
    if not prefix.strip():
        raise StoreError(f"prefix {prefix!r}: expected a path or a URL, got an empty one")
    protocol, separator, rest = prefix.partition("://")
    if not separator or protocol == "file":
        return LocalStore(rest if separator else prefix)
    return FsspecStore(protocol, prefix)


def open_reachable(prefix: str) -> Store:
    """The same for a launch, which has to wait for it: without network a client would ask for most of a minute.

    Raises:
        StoreUnavailable: the host of an object store has no address, also when asked again.
    """
    url = endpoint_of(prefix.partition("://")[0])
    host = urlsplit(url).hostname if url else None
    if host:
        _look_up(host, prefix)
    return open_store(prefix)


def _look_up(host: str, prefix: str) -> None:
    from urllib.request import getproxies  # imports email and http, which no local store needs

    if getproxies().keys() - {"no"}:
        return  # the proxy finds the host
    began = time.monotonic()
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except socket.gaierror as error:
            if time.monotonic() - began > min(_LOOKING_UP, seconds_of_patience()):
                text = f"prefix {prefix}: {host} is not found: {error.strerror}. Check the network"
                raise StoreUnavailable(text, str(error.strerror), silent=True) from error
        time.sleep(_PAUSE)


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
