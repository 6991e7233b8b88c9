"""Exports written during training: where they are, and which ones a resumed attempt keeps.

{output_path}/hf/step-{N}/    the weights after N steps, as `marin_sft.export` writes them; see `marin_sft.parts`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from marin_sft import parts
from marin_sft.paths import file_system, names_in, remove_all
from marin_sft.training.checkpoints import Checkpoint
from marin_sft.training.export_names import part_of

if TYPE_CHECKING:
    import numpy as np

    from marin_sft.training.models.model_directory import ModelDirectory


class Exporter(Protocol):
    """Writes the model every `steps` steps and after the last one: see `marin_sft.export.periodic.PeriodicExports`.

    `check` raises before the first step if `write` would fail for a reason other than the weights.
    """

    @property
    def steps(self) -> int: ...

    def check(self, base: ModelDirectory) -> None: ...

    def write(
        self,
        path: str,
        tensors: Mapping[str, np.ndarray],
        base: ModelDirectory,
        metrics: Mapping[str, float],
    ) -> Sequence[parts.File]: ...


def export_path(output_path: str, step: int) -> str:
    return f"{output_path}/{part_of(step)}"


def carry_over(start: Checkpoint, output_path: str) -> None:
    """Copy the exports that the attempt of `start` wrote up to its step to `output_path`.

    They are complete, because an export is written before the checkpoint of the same step.
    """
    if start.output_path == output_path:
        return
    filesystem, source = file_system(start.output_path)
    _, target = file_system(output_path)
    for step in _steps(start.output_path):
        if step > start.step:
            continue
        for file in filesystem.find(export_path(source, step)):
            copy = target + file.removeprefix(source)
            filesystem.makedirs(copy.rpartition("/")[0], exist_ok=True)
            filesystem.cp_file(file, copy)
        parts.carry_over(part_of(step), start.output_path, output_path)


def prune(output_path: str, keep: int) -> None:
    """Remove all exports below `output_path` except the `keep` newest."""
    for step in sorted(_steps(output_path))[:-keep]:
        parts.withdraw(output_path, part_of(step))
        remove_all(export_path(output_path, step))


def _steps(output_path: str) -> list[int]:
    return [int(name.removeprefix("step-")) for name in names_in(f"{output_path}/hf") if name.startswith("step-")]
