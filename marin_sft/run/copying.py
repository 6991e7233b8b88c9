"""`marin-sft copy`: the files of an output in a directory of their own, to give away or to serve."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping

from marin_sft.disk import sync_tree
from marin_sft.errors import UserError
from marin_sft.execution.commits import committed_files
from marin_sft.paths import file_system
from marin_sft.run.context import Context, output_in


def copy_output(context: Context, source: str, target: str) -> list[str]:
    """Copy a step's output, or a directory, to `target`, which appears when it is whole. The names of the files.

    Files that begin with a dot are left out: they are the store's.

    Raises:
        UserError: there is no such output, it has no files, or `target` exists or cannot be written.
    """
    if "://" in target:
        raise UserError(f"copy: expected a local directory, got {target}; copy on from there")
    target = os.path.abspath(target)
    if os.path.lexists(target):
        raise UserError(f"copy: {target} exists already; expected a new directory")
    output, sizes = _source(context, source)
    filesystem, plain = file_system(output)
    names = sorted(str(path).removeprefix(plain).strip("/") for path in filesystem.find(plain))
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if not names:
        raise UserError(f"copy: {output} has no files")
    above, name = os.path.split(target)
    begun = f"{above}/.{name}.{uuid.uuid4().hex}"
    try:
        os.makedirs(begun)
    except OSError as error:
        raise UserError(f"copy: {target} cannot be written: {error.strerror}") from error
    try:
        for name in names:
            os.makedirs(os.path.dirname(f"{begun}/{name}"), exist_ok=True)
            filesystem.get_file(f"{plain}/{name}", f"{begun}/{name}")
        _check(output, {name: os.path.getsize(f"{begun}/{name}") for name in names}, sizes)
        sync_tree(begun, above)
        os.rename(begun, target)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return names


def _source(context: Context, source: str) -> tuple[str, Mapping[str, int]]:
    """A directory, and the sizes of the files that its step committed."""
    place = source if "://" in source else os.path.expanduser(source)
    filesystem, plain = file_system(place)
    if filesystem.isdir(plain):
        return (output_in(place) if filesystem.isdir(f"{plain}/commits") else place), {}
    output = context.output(source)[1]
    return output, {file.path: file.size for file in committed_files(context.store, output)}


def _check(output: str, copied: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    expected = {name: size for name, size in sizes.items() if not name.startswith(".") and "/." not in name}
    wrong = sorted(name for name in expected if copied.get(name) != expected[name])
    if wrong:
        raise UserError(
            f"copy: {output}/{wrong[0]} has {copied.get(wrong[0], 'no')} bytes, and had {expected[wrong[0]]} when its "
            "step committed it; see marin-sft verify"
        )
