"""Copies of a finished training's models outside the store, where its user looks for them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from marin_sft.paths import file_system, local_path, names_in
from marin_sft.training.checkpoints import MARK

SOURCE = "marin_sft_source.json"
"""Says which output a directory was copied from."""

# Large and never changed in place: a link costs no room, and what gc removes from the store stays here.
_LINKED = (".safetensors",)


def publish(source: str, target: str) -> None:
    """Copy `source`, an output of the store, to the directory `target`. Weights become hard links on the same disk.

    Files of an earlier copy that are not in `source` are removed. Other files in `target` stay.
    """
    if _copied_from(target) == source:
        return
    old, files = _files_of_copy(target), list(_files(source))
    for name in sorted(set(old) - set(files)):
        _remove(f"{target}/{name}")
    for name in files:
        _copy(f"{source}/{name}", f"{target}/{name}")
    _write(f"{target}/{SOURCE}", json.dumps({"source": source, "files": files}, indent=1))


def published_before(target: str, source: str) -> str | None:
    """The step whose output lies in `target`, if `source` is the output of another."""
    old = _about(target).get("source")
    if not isinstance(old, str):
        return None
    before, now = (path.rstrip("/").rpartition("/")[0] for path in (old, source))
    return None if before == now else "/".join(before.rsplit("/", 2)[-2:])


def publish_file(source: str, target: str) -> None:
    """Copy one file of the store."""
    _copy(source, target)


def saved_with_state(output: str) -> list[str]:
    """The steps of models in an output that lie there with the state to resume from, which is written last."""
    steps = [name.removeprefix("step-") for name in names_in(f"{output}/hf") if name.startswith("step-")]
    return [step for step in steps if MARK in names_in(f"{output}/hf/step-{step}/checkpoints/step-{step}")]


def remove_copies(parent: str, prefix: str, keep: set[str]) -> None:
    """Remove directories of `parent` called `{prefix}N` that were copied from a store, except those to `keep`."""
    for name in names_in(parent):
        if name.startswith(prefix) and name not in keep and _copied_from(f"{parent}/{name}") is not None:
            filesystem, plain = file_system(f"{parent}/{name}")
            filesystem.rm(plain, recursive=True)


def _files(directory: str) -> Iterator[str]:
    """The names of the files below it, without hidden ones."""
    filesystem, plain = file_system(directory)
    for path in sorted(filesystem.find(plain)):
        name = path.removeprefix(plain).lstrip("/")
        if not any(part.startswith(".") for part in name.split("/")):
            yield name


def _copy(source: str, target: str) -> None:
    here, there = local_path(source), local_path(target)
    if here is not None and there is not None:
        _copy_locally(Path(here), Path(there))
        return
    from_system, from_path = file_system(source)
    to_system, to_path = file_system(target)
    to_system.makedirs(to_path.rpartition("/")[0], exist_ok=True)
    with from_system.open(from_path, "rb") as read, to_system.open(to_path, "wb") as written:
        shutil.copyfileobj(read, written, 2**22)


def _copy_locally(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: nobody sees half a file, and no link to an earlier output is written through.
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    linked = source.suffix in _LINKED
    if linked:
        try:
            os.link(source, draft)
        except OSError:  # another disk, or one without links
            linked = False
    if not linked:
        shutil.copyfile(source, draft)
    draft.replace(target)
    draft.unlink(missing_ok=True)  # renaming a link onto another of the same file does nothing


def _write(path: str, text: str) -> None:
    filesystem, plain = file_system(path)
    filesystem.makedirs(plain.rpartition("/")[0], exist_ok=True)
    filesystem.pipe_file(plain, text.encode())


def _remove(path: str) -> None:
    filesystem, plain = file_system(path)
    if filesystem.exists(plain):
        filesystem.rm(plain)


def _about(directory: str) -> dict[str, object]:
    filesystem, plain = file_system(f"{directory}/{SOURCE}")
    try:
        found = json.loads(filesystem.cat_file(plain))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _copied_from(directory: str) -> str | None:
    """The output that it is a whole copy of."""
    about = _about(directory)
    source, files = about.get("source"), about.get("files")
    if not isinstance(source, str) or not isinstance(files, list):
        return None
    return source if set(files) <= set(_files(directory)) else None


def _files_of_copy(directory: str) -> list[str]:
    files = _about(directory).get("files")
    return [str(name) for name in files] if isinstance(files, list) else []
