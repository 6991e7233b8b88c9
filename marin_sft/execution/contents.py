"""Local files that a config names. They count by content: the plan digests them, and the worker that reads them checks
them before its step begins and again before it commits.

Names that start with a dot, and files that Windows creates in every folder, are not part of a directory's contents.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

from marin_sft.errors import ConfigError
from marin_sft.nearest import listed
from marin_sft.paths import find_local, nearest_path

_HUB_NAME = re.compile(r"\w[\w.-]*")
_OF_MODELS = ("hf_model_id", "default_sft")
_OF_FIELD = {"tokenizer": ("hf_tokenizer_id", "default_tokenize"), "_paths": ("hf_dataset_id", "default_tokenize")}
_LITTER = ("desktop.ini", "Thumbs.db")
_COMPRESSIONS = (".bz2", ".gz", ".xz", ".zip", ".zst")
_NAMED = 500  # files of a directory whose digests are kept, to name those that change
_SHOWN = 3  # of these that are named
_SETTLING = 2_000_000_000  # ns: every file system in use gives different times to writes further apart than this


FilesOfFields = dict[str, dict[str, str]]
"""By the config's fields, the beginning of the digest of each of several files, by name."""


class _File(NamedTuple):
    """`name` is relative to the requested location; empty for a single file."""

    name: str
    path: str


class LocalContent(NamedTuple):
    """What local files contained when the plan was made.

    field: the config field that names them.
    location: an absolute path or glob.
    stamp: digest of their names, sizes, times and inodes.
    settled: none had been written to just before it was read, so an equal stamp means equal bytes.
    files: of several files, each name and the first digits of its digest; empty if there are too many to keep.
    """

    field: str
    location: str
    digest: str
    stamp: str
    settled: bool
    files: tuple[tuple[str, str], ...] = ()


def read_content(location: str, field: str) -> LocalContent:
    """Digest a local file, all in a directory, or all that a glob matches.

    Raises:
        ConfigError: there is nothing at `location`, or it is unreadable.
    """
    location = os.path.abspath(location)
    try:
        files = _files_at(location)
    except OSError as error:
        raise ConfigError(f"{field}: {location!r} cannot be read ({error})") from error
    if files is None:
        raise ConfigError(
            f"{field}: expected an existing file or directory, or a glob that matches some, got {location!r}"
            f"{nearest_path(location)}{_hub_id_text(location, field)}"
        )
    stamp, newest = _stamp(files)  # before the files are read, so that a write in between changes the stamp
    settled = newest < time.time_ns() - _SETTLING
    digest, each = _digests(files)
    return LocalContent(field, location, digest, stamp, settled, each if len(each) <= _NAMED else ())


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """`b.jsonl changed, c.jsonl is new`: which of several files differ, by name and digest; empty if nothing tells."""
    if not before or not now:
        return ""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    said = [f"{n} {'is new' if n not in before else 'is gone' if n not in now else 'changed'}" for n in names]
    return listed(said, most=_SHOWN)


def _hub_id_text(location: str, field: str) -> str:
    """Advice for a missing path that may be a Hugging Face Hub id: two words, the first of which is not a folder."""
    owner, _, name = os.path.relpath(location).partition("/")
    if not _HUB_NAME.fullmatch(name) or not _HUB_NAME.fullmatch(owner) or os.path.exists(owner):
        return ""
    kind, taken_by = next((of for word, of in _OF_FIELD.items() if word in field), _OF_MODELS)
    return (
        f"; if it is an id on the Hugging Face Hub, fetch it in a step: download(name, {kind}='{owner}/{name}'), or "
        f"give it to {taken_by}, which takes ids"
    )


class Look(NamedTuple):
    """A check of local files.

    change: how they changed since the plan was made, in words; None if their content is the same.
    stamp: as in `LocalContent`; it changes whenever they are written, replaced or touched.
    """

    change: str | None
    stamp: str = ""


def look_at(content: LocalContent, before: Look | None = None) -> Look:
    """before: an earlier check; the files must not have been touched since."""
    where = f"{content.field}: {content.location}"
    try:
        files = _files_at(content.location)
        if files is None:
            return Look(f"{where} does not exist on {socket.gethostname()}")
        stamp = _stamp(files)[0]
        same = content.settled and stamp == content.stamp
        digest, each = (content.digest, content.files) if same else _digests(files)
    except OSError as error:
        return Look(f"{where} cannot be read on {socket.gethostname()}: {error}")
    if digest != content.digest:
        return Look(
            f"{where} has changed since the plan was made: its digest was {content.digest[:10]} then and is "
            f"{digest[:10]} now{f'; {which}' if (which := changed_files(dict(content.files), dict(each))) else ''}",
            stamp,
        )
    if before is not None and stamp != before.stamp:
        return Look(
            f"{where} was written to or replaced while the step ran. It has the content again that it had when the "
            "plan was made, but what the step read in between is unknown",
            stamp,
        )
    return Look(None, stamp)


def kind_in_name(location: str) -> str | None:
    """The suffix of a single file, which says how to read it: `.csv`, `.jsonl.gz`. None for anything else."""
    if not os.path.isfile(location):
        return None
    suffixes = pathlib.PurePath(location).suffixes
    count = 2 if suffixes and suffixes[-1] in _COMPRESSIONS else 1
    return "".join(suffixes[-count:])


def _files_at(location: str) -> list[_File] | None:
    """Sorted by name; None if there is nothing."""
    if os.path.isfile(location):
        return [_File("", location)]
    root, names, _ = find_local(location)
    if not names and not os.path.isdir(location):
        return None
    return [_File(name, os.path.join(root, name)) for name in sorted(names) if not _is_litter(name)]


def _is_litter(name: str) -> bool:
    parts = name.split("/")
    return parts[-1] in _LITTER or any(part.startswith(".") for part in parts)


def _stamp(files: list[_File]) -> tuple[str, int]:
    """A digest of the `stat` results of the files, and the newest of their times in ns."""
    digest, newest = hashlib.sha256(), 0
    for name, path in files:
        found = os.stat(path)
        line = (name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)
        digest.update(f"{line}\n".encode())
        newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
    return digest.hexdigest(), newest


def _digests(files: list[_File]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """sha256 of a single file; for several, sha256 over their names and digests, and the beginning of each."""
    digest, each = hashlib.sha256(), []
    for name, path in files:
        with open(path, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        if not name:
            return content, ()
        digest.update(f"{name}\0{content}\n".encode())
        each.append((name, content[:16]))
    return digest.hexdigest(), tuple(each)
