"""Exports written while training: where they lie, and what a resumed attempt takes over.

{output_path}/hf/step-{N}/    the weights after N steps, as `marin_sft.export` writes them
"""

from __future__ import annotations

import fsspec

from marin_sft.training.checkpoints import Checkpoint


def export_path(output_path: str, step: int) -> str:
    return f"{output_path}/hf/step-{step}"


def carry_over(start: Checkpoint, output_path: str) -> None:
    """Copy to `output_path` the exports that the attempt of `start` wrote up to there.

    They are complete: an export is written before the checkpoint of the same step.
    """
    if start.output_path == output_path:
        return
    filesystem, source = fsspec.core.url_to_fs(start.output_path)
    _, target = fsspec.core.url_to_fs(output_path)
    for directory in filesystem.glob(f"{source}/hf/step-*"):
        if int(directory.rpartition("-")[2]) > start.step:
            continue
        for file in filesystem.find(directory):
            copy = target + file.removeprefix(source)
            filesystem.makedirs(copy.rpartition("/")[0], exist_ok=True)
            filesystem.cp_file(file, copy)


def prune(output_path: str, keep: int) -> None:
    """Remove all exports below `output_path` but for the `keep` newest."""
    filesystem, plain = fsspec.core.url_to_fs(output_path)
    found = sorted(filesystem.glob(f"{plain}/hf/step-*"), key=lambda path: int(path.rpartition("-")[2]))
    for path in found[:-keep]:
        filesystem.rm(path, recursive=True)
