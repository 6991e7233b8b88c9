"""Objects under a prefix: local disk, memory://, gs://, s3://. Knows nothing of steps.

The one primitive everything else rests on is `create_exclusive`: of any number of writers exactly one succeeds, and
no reader ever sees half of it. fsspec's own exclusive mode is not atomic on local disk, hence `LocalStore`.
Paths are absolute (or URLs); `Store.path` makes them from the prefix.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from marin_sft.errors import StoreError

READ_BACK_LIMIT = 4 * 2**30  # bytes of one output beyond which local files are not read back for a digest
_SIGNATURE = "writer"  # the metadata field by which a writer knows its own object again
_PRUNED = 20  # times in a row that a new folder may be pruned under a writer's hands
_CONFLICT_PAUSES = (0.1, 0.2, 0.4, 0.8)  # seconds


class FileInfo(NamedTuple):
    """An output file: path relative to the attempt, size in bytes, content digest if it comes for free or cheaply."""

    path: str
    size: int
    digest: str | None


class Store(Protocol):
    """Narrow on purpose: what the engine needs of a place, and no more."""

    prefix: str
    beat_seconds: float

    def path(self, relative: str) -> str:
        """An absolute path for one relative to the prefix; absolute ones and URLs stay as they are."""
        ...

    def read(self, path: str) -> bytes | None:
        """The bytes, or None where there is nothing."""
        ...

    def names(self, path: str) -> list[str]:
        """The names of the direct children, sorted; empty where there is nothing."""
        ...

    def folders(self, path: str) -> list[str]:
        """The names of those direct children that have children themselves, or may have; sorted."""
        ...

    def size(self, path: str) -> int:
        """Bytes in an object or in all below it; 0 where there is nothing."""
        ...

    def read_from(self, path: str, start: int) -> bytes:
        """What an object holds beyond its first `start` bytes; nothing where there is no more, or no object."""
        ...

    def create_exclusive(self, path: str, data: bytes) -> bool:
        """Create the object whole; False, and nothing changed, when it exists."""
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Write over an object that has one writer only."""
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
        """Every file below `path`, sorted, without those whose top-level name starts with a dot."""
        ...


def open_store(prefix: str) -> Store:
    """The store at `prefix`: a path or a URL. Reads and writes nothing.

    Raises:
        StoreError: for a protocol without create-exclusive.
    """
    protocol, separator, rest = prefix.partition("://")
    if not separator or protocol == "file":
        return LocalStore(rest if separator else prefix)
    return FsspecStore(protocol, prefix)


def probe(store: Store) -> None:
    """Check that the prefix can be written and that its create-exclusive excludes.

    Raises:
        StoreError: when it cannot; with what was tried.
    """
    path = store.path(f"_probe/{uuid.uuid4().hex}")
    try:
        first, second = store.create_exclusive(path, b"1"), store.create_exclusive(path, b"2")
        kept = store.read(path)
        store.remove(path)
    except OSError as error:
        raise StoreError(f"prefix {store.prefix}: cannot be written: {error}; choose another with --prefix") from error
    if (first, second, kept) != (True, False, b"1"):
        raise StoreError(
            f"prefix {store.prefix}: expected the second create of {path} to be refused, "
            f"got {(first, second, kept)}; this file system cannot keep two launches apart, choose another prefix"
        )


class LocalStore:
    """Local disk (or a shared one with hard links), by os calls: fsspec would double the cost of a cached step."""

    beat_seconds = 1.0

    def __init__(self, prefix: str) -> None:
        self.prefix = os.path.abspath(os.path.expanduser(prefix))

    def path(self, relative: str) -> str:
        return os.path.join(self.prefix, relative) if relative else self.prefix

    def read(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def folders(self, path: str) -> list[str]:
        try:
            with os.scandir(path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, path: str) -> int:
        paths = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names] or [path]
        total = 0
        for file in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                total += os.lstat(file).st_size
        return total

    def read_from(self, path: str, start: int) -> bytes:
        try:
            with open(path, "rb") as file:
                file.seek(start)
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return b""

    def create_exclusive(self, path: str, data: bytes) -> bool:
        temporary = self._write_temporary(path, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        _sync_directory(os.path.dirname(path))
        return True

    def replace(self, path: str, data: bytes) -> None:
        os.replace(self._write_temporary(path, data, durable=False), path)

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

    def make_directory(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def point_latest(self, directory: str, attempt: str) -> None:
        temporary = os.path.join(directory, f".latest-{uuid.uuid4().hex}")
        os.symlink(attempt, temporary)
        os.replace(temporary, os.path.join(directory, "latest"))

    def files(self, path: str) -> list[FileInfo]:
        found = sorted(self._walk(path))
        read_back = sum(os.path.getsize(file) for _, file in found) <= READ_BACK_LIMIT
        return [
            FileInfo(relative, os.path.getsize(file), _file_digest(file) if read_back else None)
            for relative, file in found
        ]

    def _walk(self, path: str) -> list[tuple[str, str]]:
        found = []
        for folder, _, names in os.walk(path):
            for name in names:
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
                os.fsync(file.fileno())
        return temporary


class FsspecStore:
    """Object stores with a conditional create, through fsspec; and memory:// for tests within one process.

    Every failure of a client is raised as an OSError, as on local disk.
    """

    beat_seconds = 10.0
    _memory_lock = threading.Lock()

    def __init__(self, protocol: str, prefix: str) -> None:
        import fsspec

        if protocol not in ("memory", "gs", "gcs", "s3", "s3a"):
            raise StoreError(
                f"prefix {prefix!r}: expected a local path, gs://, s3:// or memory://, got {protocol}://, "
                "which has no create-exclusive known to be atomic"
            )
        # Listings must be fresh: another launch may have committed a moment ago.
        self._fs: Any = fsspec.filesystem(protocol, use_listings_cache=False)
        self._in_memory = protocol == "memory"
        self._is_s3 = protocol in ("s3", "s3a")
        self.prefix = prefix.rstrip("/")

    def path(self, relative: str) -> str:
        if "://" in relative:
            return relative
        return f"{self.prefix}/{relative}" if relative else self.prefix

    def read(self, path: str) -> bytes | None:
        try:
            with _os_errors(path):
                return self._fs.cat_file(path)
        except FileNotFoundError:
            return None

    def names(self, path: str) -> list[str]:
        """As on disk. Listings also hold the path itself, when it is an object, and markers of directories."""
        root = self._root(path)
        try:
            with _os_errors(path):
                listed = self._fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        children = (entry.removeprefix(root).rstrip("/") for entry in listed if entry.startswith(root))
        return sorted(set(filter(None, children)))

    def folders(self, path: str) -> list[str]:
        root = self._root(path)
        try:
            with _os_errors(path):
                listed = self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        found = (entry["name"] for entry in listed if entry["type"] == "directory")
        return sorted({name.removeprefix(root).rstrip("/") for name in found if name.startswith(root)} - {""})

    def size(self, path: str) -> int:
        with _os_errors(path):
            return sum(info["size"] for info in self._fs.find(path, detail=True).values())

    def read_from(self, path: str, start: int) -> bytes:
        try:
            with _os_errors(path):
                # A range that starts at the end is an error to some stores, an empty answer to others.
                size = self._fs.info(path)["size"]
                return self._fs.cat_file(path, start=start, end=size) if size > start else b""
        except FileNotFoundError:
            return b""

    def create_exclusive(self, path: str, data: bytes) -> bool:
        """Create the object whole; False, and nothing changed, when it exists.

        Clients repeat a request whose answer got lost. Had it been carried out, then the repetition is refused because
        of our own object. So each call signs its object, and who is refused looks whose it is. The bytes alone would
        not tell: two threads may write the same ones.
        """
        if self._in_memory:
            return self._create_in_memory(path, data)
        signature = uuid.uuid4().hex
        for pause in (*_CONFLICT_PAUSES, None):
            try:
                self._create_signed(path, data, signature)
                return True
            except FileExistsError:
                return self._signature(path) == signature
            except OSError as error:
                # The last answer got lost too, or the refusal came in words that s3fs does not know.
                found = self._signature(path)
                if found is not None:
                    return found == signature
                if pause is None or not _is_conflict(error):
                    raise
                time.sleep(pause)
        raise AssertionError("the last round returns or raises")

    def _create_signed(self, path: str, data: bytes, signature: str) -> None:
        name = "Metadata" if self._is_s3 else "metadata"
        with _os_errors(path):
            self._fs.pipe_file(path, data, mode="create", **{name: {_SIGNATURE: signature}})

    def _signature(self, path: str) -> str | None:
        """Whose object it is: empty when it is unsigned, None when there is none."""
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

    def replace(self, path: str, data: bytes) -> None:
        with _os_errors(path):
            self._fs.pipe_file(path, data)

    def remove(self, path: str) -> None:
        """Object by object: `rm` would take names for patterns, delete an emptied bucket, and on S3 hide errors."""
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
        """Nothing to do on object stores, which have no directories."""
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

    def files(self, path: str) -> list[FileInfo]:
        root = self._root(path)
        with _os_errors(path):
            listed = sorted(self._fs.find(path, detail=True).items())
        found = []
        for file, info in listed:
            relative = file.removeprefix(root)
            if file.startswith(root) and not relative.startswith(".") and not file.endswith("/"):
                found.append(FileInfo(relative, info["size"], self._digest(file, info)))
        return found

    def _digest(self, file: str, info: dict[str, Any]) -> str | None:
        """The store's own checksum, from the listing.

        crc32c on GCS, for every object. The ETag on S3 is the md5, but for objects written in parts or encrypted with
        managed keys: then equal bytes may differ in it, which counts as changed and costs a rerun, never a stale hit.
        """
        if self._in_memory:
            return hashlib.sha256(self._fs.cat_file(file)).hexdigest()
        checksum = info.get("crc32c") or info.get("ETag")
        return checksum and str(checksum).strip('"')

    def _root(self, path: str) -> str:
        """What the names of everything below `path` begin with, in the file system's own notation."""
        return self._fs._strip_protocol(path).rstrip("/") + "/"


@contextlib.contextmanager
def _os_errors(path: str) -> Iterator[None]:
    """Clients raise their own errors for lost connections and missing credentials; callers know OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path}: {type(error).__name__}: {error}") from error


def _is_conflict(error: OSError) -> bool:
    """S3's "another request on this object is under way, try again"; clients do not repeat on it."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("ConditionalRequestConflict", "OperationAborted")


def _file_digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_in_new_folder(path: str) -> BinaryIO:
    """Another process may prune the folder, empty as it is, between the two calls: then once more."""
    for attempt in itertools.count():
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return open(path, "xb")
        except FileNotFoundError:
            if attempt == _PRUNED:
                raise
    raise AssertionError("the last round returns or raises")


def _sync_directory(path: str) -> None:
    """Make a new name in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
