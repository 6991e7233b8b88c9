"""Paths as people write them, and the files that they mean. The plan and the steps find files by these rules alone.

What exists by its very name is meant by it, whatever characters that name has: `rows[1].jsonl`, `lr=[1e-4]/a::b`.
Only from the first part on that does not exist and has a `*`, `?` or `[` is a path a pattern. In it `**` is any number
of directories; `*` and `**` leave out names that start with a dot. Links to directories are followed.
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
"""Where `::` is a part of a name. `zip://a.jsonl::gs://bucket/a.zip` is a chain."""


class Found(NamedTuple):
    """`names` are those of the files, relative to `root`, with `/` between directories, sorted by directory.

    `broken`: links that lead nowhere, by the same rules.
    """

    root: str
    names: list[str]
    broken: list[str]


def local_path(path: str) -> str | None:
    """The absolute path of what lies on this machine; None for any other address."""
    if path.startswith(("file://", "local://")):
        path = path.partition("://")[2]
    return None if "://" in path else str(Path.cwd() / path)


def file_system(path: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a path or URL, and the path in it, of which no character has a meaning."""
    import fsspec

    if (local := local_path(path)) is not None:
        return fsspec.filesystem("file"), local
    scheme = path.partition("://")[0]
    if "::" in path and scheme in _PLACES:
        cls = fsspec.get_filesystem_class(scheme)
        return fsspec.filesystem(scheme, **cls._get_kwargs_from_urls(path)), str(cls._strip_protocol(path))
    return fsspec.core.url_to_fs(path)


def unchained(path: str) -> str:
    """A name of `path` without `::`, for libraries that hand paths to fsspec as they are; it ends with this process."""
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
    """The names of what lies in a directory, sorted; none where there is no directory."""
    filesystem, plain = file_system(path)
    if not filesystem.isdir(plain):
        return []
    return sorted(str(there).rstrip("/").rpartition("/")[2] for there in filesystem.ls(plain, detail=False))


def remove_all(path: str) -> None:
    """Remove a directory and all below it; nothing there is no error."""
    filesystem, plain = file_system(path)
    if local_path(path) is None and any(c in plain for c in _MAGIC):  # elsewhere, fsspec takes it for a pattern
        for file in filesystem.find(plain):
            filesystem.rm_file(file)
    elif filesystem.isdir(plain):
        filesystem.rm(plain, recursive=True)


def find(path: str) -> Found:
    """The files that `path` means: a file, all below a directory, or all that fit a pattern.

    Raises:
        OSError: a directory that cannot be read.
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
    """`find` on this machine."""
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
    """`; did you mean 'x'?` for a path of which a part does not exist here, or nothing."""
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
    """What of `path` exists by its very name, or should, and the parts of the pattern below that."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if any(c in part for c in _MAGIC) and not exists("/".join(parts[: index + 1])):
            return "/".join(parts[:index]) or ("/" if path.startswith("/") else "."), [p for p in parts[index:] if p]
    return path, []


def _below(directory: str, inside: tuple[str, ...], pattern: Sequence[str], above: tuple[str, ...]) -> Iterator[str]:
    """The files, and links that lead nowhere, in and below `directory`, of which `above` are the directories above."""
    here = os.path.realpath(directory)  # not every file system has inodes
    # A link to where we come from: its files are found without it, unless the pattern says how deep they are.
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
    """Whether the parts of a path fit those of a pattern; `partly`: whether what lies below it may."""
    if not names:
        return bool(pattern) if partly else all(part == "**" for part in pattern)
    if not pattern:
        return False
    hidden = names[0].startswith(".") and not pattern[0].startswith(".")
    if pattern[0] == "**":
        return _fits(names, pattern[1:], partly) or (not hidden and _fits(names[1:], pattern, partly))
    return not hidden and fnmatch.fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:], partly)
