"""Parts of an output that are whole before its step ends, such as an export that training writes on its way.

    {output_path}/.parts/hf/step-4.json   {"files": [{path, size, sha256}, ...]}, written once the part is whole

A step that uses such a part with `step.early("hf/step-4")` need not wait until the other step ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from marin_sft.disk import is_local, write_whole
from marin_sft.paths import file_system

_LARGE = 1 << 20  # bytes: weights. Who edits a copied config.json edits only that


@dataclass(frozen=True)
class File:
    """A file of a part: its path in the part, its size in bytes and its digest."""

    path: str
    size: int
    sha256: str


def record_path(output_path: str, part: str) -> str:
    return f"{output_path}/.parts/{part}.json"


def files_of(local: str) -> list[File]:
    """All files below a local directory, sorted."""
    found = sorted(path for path in Path(local).rglob("*") if path.is_file())
    return [File(path.relative_to(local).as_posix(), path.stat().st_size, _sha256(path)) for path in found]


def declare_whole(output_path: str, part: str, files: Sequence[File]) -> None:
    """Let other steps use `part` of this output from now on. It must not change any more."""
    write_whole(record_path(output_path, part), json.dumps({"files": list(map(asdict, files))}))


def carry_over(part: str, source: str, target: str) -> None:
    """Declare `part` whole in the output `target`, to which it was copied, if it was so in `source`."""
    filesystem, path = file_system(record_path(source, part))
    if filesystem.exists(path):
        write_whole(record_path(target, part), filesystem.cat_file(path).decode())


def copy(output_path: str, part: str, target: str) -> None:
    """Copy the files of a part to the directory `target`. Large local ones are linked."""
    filesystem, source = file_system(f"{output_path}/{part}")
    _, to = file_system(target)
    for file in _files_in(output_path, part):
        path = f"{to}/{file}"
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        if is_local(filesystem) and filesystem.size(f"{source}/{file}") >= _LARGE:
            with contextlib.suppress(OSError):  # on another file system, or one without links
                os.link(f"{source}/{file}", path)
                continue
        filesystem.cp_file(f"{source}/{file}", path)


def _files_in(output_path: str, part: str) -> list[str]:
    """The files that the part had when it was declared whole; those that are there if it never was."""
    filesystem, record = file_system(record_path(output_path, part))
    if filesystem.exists(record):
        return [file["path"] for file in json.loads(filesystem.cat_file(record))["files"]]
    _, source = file_system(f"{output_path}/{part}")
    return [str(file).removeprefix(f"{source}/") for file in filesystem.find(source)]


def withdraw(output_path: str, part: str) -> None:
    """`part` will be removed: no other step may use it any more."""
    filesystem, path = file_system(record_path(output_path, part))
    if filesystem.exists(path):
        filesystem.rm_file(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
