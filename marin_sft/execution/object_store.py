"""Object stores with a conditional create (gs://, s3://), through fsspec; and memory:// for tests in one process."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from marin_sft.errors import StoreError
from marin_sft.execution.patience import patient, was_sent
from marin_sft.execution.store import FileInfo

_SIGNATURE = "writer"  # the metadata field by which a writer recognizes its own object
_GS, _S3 = ("gs", "gcs"), ("s3", "s3a")
CONNECTIONS = 32  # concurrent calls


def endpoint_of(protocol: str) -> str | None:
    """The URL that a client asks; None where nobody knows. It is not asked, nor is one for credentials."""
    with contextlib.suppress(Exception):  # of a client that keeps it elsewhere
        if protocol in _GS:
            import gcsfs.core

            return str(gcsfs.core._location())
        if protocol in _S3:
            filesystem = _filesystem(protocol)
            filesystem.connect()
            return str(filesystem.s3.meta.endpoint_url)
    return None


def _filesystem(protocol: str) -> Any:
    import fsspec

    options = {"config_kwargs": {"max_pool_connections": CONNECTIONS}} if protocol in _S3 else {}
    # It logs a traceback for every error that it raises.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # Listings must be fresh: another launch may have committed a moment ago.
    return fsspec.filesystem(protocol, use_listings_cache=False, **options)


class FsspecStore:
    """See `Store`. All errors of clients become OSError, as on local disk."""

    beat_seconds = 10.0
    on_disk = False
    _memory_lock = threading.Lock()

    def __init__(self, protocol: str, prefix: str) -> None:
        if protocol not in ("memory", *_GS, *_S3):
            raise StoreError(
                f"prefix {prefix!r}: expected a local path, gs://, s3:// or memory://, got {protocol}://, "
                "which has no create-exclusive that is known to be atomic"
            )
        self._in_memory = protocol == "memory"
        self._is_s3 = protocol in _S3
        self._fs = _filesystem(protocol)
        self.prefix = prefix.rstrip("/")

    def path(self, relative: str) -> str:
        if "://" in relative:
            return relative
        return f"{self.prefix}/{relative}" if relative else self.prefix

    @patient
    def read(self, path: str) -> bytes | None:
        try:
            with _os_errors(path):
                return self._fs.cat_file(path)
        except FileNotFoundError:
            return None

    @patient
    def names(self, path: str) -> list[str]:
        """As on disk. (Listings also contain the path itself if it is an object, and directory markers.)"""
        root = self._root(path)
        try:
            with _os_errors(path):
                listed = self._fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        children = (entry.removeprefix(root).rstrip("/") for entry in listed if entry.startswith(root))
        return sorted(set(filter(None, children)))

    @patient
    def names_of(self, path: str, children: Sequence[str]) -> list[list[str]]:
        if self._in_memory:
            return [self.names(f"{path}/{child}") for child in children]
        root = self._root(path)
        with _os_errors(path):
            listed = self._fs.find(path, prefix=os.path.commonprefix(children))
        parts = [name.removeprefix(root).split("/") for name in listed]
        return [sorted({part[1] for part in parts if part[0] == child and part[1:]}) for child in children]

    @patient
    def folders(self, path: str) -> list[str]:
        root = self._root(path)
        try:
            with _os_errors(path):
                listed = self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        found = (entry["name"] for entry in listed if entry["type"] == "directory")
        return sorted({name.removeprefix(root).rstrip("/") for name in found if name.startswith(root)} - {""})

    @patient
    def size(self, path: str) -> int:
        with _os_errors(path):
            return sum(info["size"] for info in self._fs.find(path, detail=True).values())

    @patient
    def read_from(self, path: str, start: int, limit: int) -> bytes:
        try:
            with _os_errors(path):
                # Some stores reject a range that starts at the end, others return nothing.
                end = min(self._fs.info(path)["size"], start + limit)
                return self._fs.cat_file(path, start=start, end=end) if end > start else b""
        except FileNotFoundError:
            return b""

    def create_exclusive(self, path: str, data: bytes) -> bool:
        """Create the object atomically; False, with nothing changed, if it exists.

        Clients retry a request if its response is lost. If the request had succeeded, the retry is refused because of
        our own object. So each call signs its object, and a refused call checks the signature. The content would not
        tell, since two threads may write the same bytes.
        """
        if self._in_memory:
            return self._create_in_memory(path, data)
        return self._create(path, data, uuid.uuid4().hex)

    @patient
    def _create(self, path: str, data: bytes, signature: str) -> bool:
        try:
            self._create_signed(path, data, signature)
            return True
        except FileExistsError:
            return self._signature(path) == signature
        except OSError as error:
            # The last response was lost too, or s3fs did not recognize the refusal.
            found = self._signature(path) if was_sent(error) else None
            if found is None:
                raise
            return found == signature

    def _create_signed(self, path: str, data: bytes, signature: str) -> None:
        name = "Metadata" if self._is_s3 else "metadata"
        with _os_errors(path):
            self._fs.pipe_file(path, data, mode="create", **{name: {_SIGNATURE: signature}})

    def _signature(self, path: str) -> str | None:
        """The signature of the object: empty if it is unsigned, None if there is no object."""
        try:
            with _os_errors(path):
                fields = self._fs.metadata(path) if self._is_s3 else self._fs.info(path).get("metadata", {})
        except FileNotFoundError:
            return None
        return fields.get(_SIGNATURE, "")

    def _create_in_memory(self, path: str, data: bytes) -> bool:
        with self._memory_lock:
            if self._fs.exists(path):
                return False
            self._fs.pipe_file(path, data)
            return True

    def create_private(self, path: str, data: bytes) -> None:
        """The bucket decides who may read it."""
        self.replace(path, data)

    @patient
    def replace(self, path: str, data: bytes, durable: bool = True) -> None:
        with _os_errors(path):
            self._fs.pipe_file(path, data)

    def sync(self, path: str) -> None:
        """Nothing to do: what an object store has confirmed is durable."""

    @patient
    def remove(self, path: str) -> None:
        """One object at a time: `rm` would treat names as patterns, delete an empty bucket, and on S3 hide errors."""
        with _os_errors(path), ThreadPoolExecutor(16) as pool:
            list(pool.map(self._remove_object, self._fs.find(path)))
        if self._in_memory:  # which has directories
            for directory in sorted(self._fs.pseudo_dirs, reverse=True):
                if f"{directory}/".startswith(self._root(path)):
                    self._remove_directory(directory)

    def _remove_object(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def prune(self, path: str) -> None:
        """Nothing to do on object stores: they have no directories."""
        while self._in_memory and path.startswith(f"{self.prefix}/") and self._remove_directory(path):
            path = path.rpartition("/")[0]

    def _remove_directory(self, path: str) -> bool:
        try:
            self._fs.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False  # not empty
        return True

    def make_directory(self, path: str) -> None:
        """Nothing to do: object stores have no directories."""

    def point_latest(self, directory: str, attempt: str) -> None:
        """Nothing to do: object stores have no links."""

    @patient
    def files(self, path: str) -> list[FileInfo]:
        return [FileInfo(name, info["size"], self._digest(file, info)) for name, file, info in self._listed(path)]

    @patient
    def sizes(self, path: str) -> dict[str, int]:
        return {name: info["size"] for name, _, info in self._listed(path)}

    def _listed(self, path: str) -> list[tuple[str, str, dict[str, Any]]]:
        root = self._root(path)
        with _os_errors(path):
            listed = sorted(self._fs.find(path, detail=True).items())
        return [
            (file.removeprefix(root), file, info)
            for file, info in listed
            if file.startswith(root) and not file.removeprefix(root).startswith(".") and not file.endswith("/")
        ]

    def _digest(self, file: str, info: dict[str, Any]) -> str | None:
        """The store's own checksum, from the listing.

        On GCS the crc32c. On S3 the ETag, which is the md5 except for objects written in parts or encrypted with
        managed keys. There equal bytes may have different ETags, which costs a rerun but never gives a stale hit.
        """
        if self._in_memory:
            return hashlib.sha256(self._fs.cat_file(file)).hexdigest()
        checksum = info.get("crc32c") or info.get("ETag")
        return checksum and str(checksum).strip('"')

    def _root(self, path: str) -> str:
        """The prefix of all names below `path`, in the file system's own notation."""
        return self._fs._strip_protocol(path).rstrip("/") + "/"


@contextlib.contextmanager
def _os_errors(path: str) -> Iterator[None]:
    """Turn clients' own errors, e.g. for lost connections and missing credentials, into OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path}: {type(error).__name__}: {error}") from error
