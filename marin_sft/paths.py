"""Paths as users write them, and the files that they match. Plans and steps both find files by these rules.

A path that exists is taken literally, whatever characters it contains: `rows[1].jsonl`, `lr=[1e-4]/a::b`. Otherwise it
is a pattern from the first part on that does not exist and contains `*`, `?` or `[`. In a pattern, `**` matches any
number of directories; `*` and `**` do not match names that start with a dot. Links to directories are followed.
"""

from __future__ import annotations

import atexit
import fnmatch
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from marin_sft.nearest import nearest

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_MAGIC = "*?["
_PLACES = ("gs", "gcs", "s3", "s3a", "memory", "az", "abfs", "abfss", "http", "https")
"""Protocols whose names may contain `::`. In others, such as `zip://a.jsonl::gs://bucket/a.zip`, it chains URLs."""


class Found(NamedTuple):
    """The files that a path matches.

    names: of files, relative to `root`, with `/` between directories, sorted by directory.
    broken: the same for broken links.
    """

    root: str
    names: list[str]
    broken: list[str]


def local_path(path: str) -> str | None:
    """The absolute path of a local path or URL; None for other URLs."""
    if path.startswith(("file://", "local://")):
        path = path.partition("://")[2]
    return None if "://" in path else str(Path.cwd() / path)


def file_system(path: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a path or URL, and the path in it, to be taken literally."""
    import fsspec

    if (local := local_path(path)) is not None:
        return fsspec.filesystem("file"), local
    scheme = path.partition("://")[0]
    if "::" in path and scheme in _PLACES:
        cls = fsspec.get_filesystem_class(scheme)
        return fsspec.filesystem(scheme, **cls._get_kwargs_from_urls(path)), str(cls._strip_protocol(path))
    return fsspec.core.url_to_fs(path)


def unchained(path: str) -> str:
    """A path without `::`, for libraries that pass paths to fsspec. It may be a link that is removed at exit."""
    local = local_path(path)
    if local is None or "::" not in local:
        return path
    end = local.find("/", local.rindex("::"))
    return _link_to(local) if end < 0 else _link_to(local[:end]) + local[end:]


@functools.cache
def _link_to(directory: str) -> str:
    import shutil
    import tempfile

    os.makedirs(directory, exist_ok=True)
    links = tempfile.mkdtemp(prefix="marin_sft_paths_")
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    os.symlink(directory, f"{links}/to")
    return f"{links}/to"


def names_in(path: str) -> list[str]:
    """The sorted names in a directory; empty if it does not exist."""
    filesystem, plain = file_system(path)
    if not filesystem.isdir(plain):
        return []
    return sorted(str(there).rstrip("/").rpartition("/")[2] for there in filesystem.ls(plain, detail=False))


def remove_all(path: str) -> None:
    """Remove a directory and everything below it. It need not exist."""
    filesystem, plain = file_system(path)
    if local_path(path) is None and any(c in plain for c in _MAGIC):  # fsspec would treat the path as a pattern
        for file in filesystem.find(plain):
            filesystem.rm_file(file)
    elif filesystem.isdir(plain):
        filesystem.rm(plain, recursive=True)


def find(path: str) -> Found:
    """The files that `path` matches: a file, all files below a directory, or all that match a pattern.

    Raises:
        OSError: a directory is unreadable.
    """
    if (local := local_path(path)) is not None:
        return find_local(local)
    filesystem, plain = file_system(path)
    base, pattern = _split(plain, filesystem.exists)
    if not pattern and not filesystem.isdir(base):
        parent, _, name = base.rpartition("/")
        return Found(parent, [name] if filesystem.exists(base) else [], [])
    depth = None if not pattern or "**" in pattern else len(pattern)
    try:
        there = filesystem.find(base, maxdepth=depth)
    except FileNotFoundError:
        there = []
    below = [str(found).removeprefix(base).lstrip("/") for found in there]
    return Found(base, _sorted(name for name in below if not pattern or _fits(name.split("/"), pattern)), [])


def find_local(path: str) -> Found:
    """`find` for local paths."""
    base, pattern = _split(str(Path(path)), os.path.lexists)
    if pattern or os.path.isdir(base):
        found = list(_below(base, (), pattern, ())) if os.path.isdir(base) else []
    else:
        base, name = os.path.split(base)
        found = [name] if os.path.lexists(path) else []
    broken = [name for name in found if not os.path.exists(os.path.join(base, name))]
    files = [name for name in found if os.path.isfile(os.path.join(base, name))]
    return Found(base, _sorted(files), _sorted(broken))


def nearest_path(path: str) -> str:
    """`; did you mean 'x'?` for a local path that does not exist, or an empty string."""
    there = Path(path)
    missing = next((part for part in (*reversed(there.parents), there) if not os.path.lexists(part)), None)
    if missing is None or not missing.parent.is_dir() or any(c in missing.name for c in "*?"):
        return ""
    try:
        names = os.listdir(missing.parent)
    except OSError:
        return ""
    near = nearest(missing.name, names)
    return f"; did you mean {str(missing.parent / near[0] / there.relative_to(missing))!r}?" if near else ""


def _sorted(names: Iterator[str] | Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: name.split("/"))


def _split(path: str, exists: Callable[[str], bool]) -> tuple[str, list[str]]:
    """The literal part of `path`, and the parts of the pattern below it."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if any(c in part for c in _MAGIC) and not exists("/".join(parts[: index + 1])):
            return "/".join(parts[:index]) or ("/" if path.startswith("/") else "."), [p for p in parts[index:] if p]
    return path, []


def _below(directory: str, inside: tuple[str, ...], pattern: Sequence[str], above: tuple[str, ...]) -> Iterator[str]:
    """The files and broken links in and below `directory`. above: the real paths of the directories above it."""
    here = os.path.realpath(directory)  # not every file system has inodes
    # A link to a directory above: its files are found anyway, unless the pattern has a fixed depth.
    if here in above and (not pattern or "**" in pattern):
        return
    for name in os.listdir(directory):
        path, names = os.path.join(directory, name), (*inside, name)
        if not os.path.isdir(path):
            if not pattern or _fits(names, pattern):
                yield "/".join(names)
        elif not pattern or _fits(names, pattern, partly=True):
            yield from _below(path, names, pattern, (*above, here))


def _fits(names: Sequence[str], pattern: Sequence[str], partly: bool = False) -> bool:
    """Whether the parts of a path match a pattern. partly: whether something below the path may match."""
    if not names:
        return bool(pattern) if partly else all(part == "**" for part in pattern)
    if not pattern:
        return False
    hidden = names[0].startswith(".") and not pattern[0].startswith(".")
    if pattern[0] == "**":
        return _fits(names, pattern[1:], partly) or (not hidden and _fits(names[1:], pattern, partly))
    return not hidden and fnmatch.fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:], partly)
