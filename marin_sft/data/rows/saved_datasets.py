"""Directories written by `save_to_disk` of `datasets`: which of their files hold rows.

dataset_dict.json    if there are several splits: their names, each a directory with the files below
state.json           names the tables, in order; any other .arrow is the cache of a later `map`
dataset_info.json    a description
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from marin_sft.data.files import read_json
from marin_sft.data.rows.source_rows import SourceFile
from marin_sft.errors import DataError

_SPLITS, _STATE, _ABOUT = "dataset_dict.json", "state.json", "dataset_info.json"


def saved_splits(files: Mapping[str, SourceFile], folder: str = "") -> dict[str, list[SourceFile]]:
    """The tables of each split saved in `folder` of `files` (by name). Empty if nothing is saved there.

    Raises:
        DataError: a table is missing.
    """
    if (names := _listed(files, folder, _SPLITS, "splits")) is not None:
        inside = {name: saved_splits(files, posixpath.join(folder, name)) for name in names}
        return {name: tables for name, splits in inside.items() for tables in splits.values()}
    tables = _listed(files, folder, _STATE, "_data_files")
    if tables is None:
        return {}
    paths = [posixpath.join(folder, table["filename"]) for table in tables]
    if missing := [path for path in paths if path not in files]:
        state = files[posixpath.join(folder, _STATE)].path
        raise DataError(
            f"{state} names {posixpath.basename(missing[0])!r}, which is missing; save or copy the dataset again"
        )
    return {"train": [files[path] for path in paths]}


def without_descriptions(files: Sequence[SourceFile]) -> list[SourceFile]:
    """`files` of a directory, without the files of saved datasets that hold no rows.

    Raises:
        DataError: a dataset has several splits, and none was named; or a table is missing.
    """
    by_name = {file.name: file for file in files}
    kept = dict(by_name)
    for folder in {posixpath.dirname(name) for name in by_name}:
        splits = saved_splits(by_name, folder)
        if len(splits) > 1:
            first = next(iter(splits))
            where = posixpath.dirname(by_name[posixpath.join(folder, _SPLITS)].path)
            raise DataError(
                f"{where} is a dataset with the splits {', '.join(splits)}; name one, as in {where}/{first}"
            )
        if splits:
            rows = {file.name for tables in splits.values() for file in tables}
            for name in by_name:
                if posixpath.dirname(name) == folder and name not in rows and _is_known(posixpath.basename(name)):
                    kept.pop(name)
    return list(kept.values())


def _is_known(base: str) -> bool:
    return base.endswith(".arrow") or base in (_SPLITS, _STATE, _ABOUT)


def _listed(files: Mapping[str, SourceFile], folder: str, base: str, key: str) -> list[Any] | None:
    """What the file `base` of `folder` lists under `key`. None if there is no such file."""
    file = files.get(posixpath.join(folder, base))
    if file is None:
        return None
    try:
        listed = read_json(file.path)[key]
    except (ValueError, KeyError, TypeError):  # a file of another program
        return None
    return listed if isinstance(listed, list) else None
