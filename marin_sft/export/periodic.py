"""Exports that training writes while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marin_sft.export.hf_config import HfExport
from marin_sft.parts import File, files_of
from marin_sft.training.checks import require, unresolved
from marin_sft.training.models.model_directory import ModelDirectory

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class PeriodicExports(HfExport):
    """An export every `steps` training steps and after the last one, in the output of the training step."""

    steps: int
    """Training steps between two exports."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not unresolved(self):
            require(self, "steps", self.steps >= 1, "at least 1")

    def check(self, base: ModelDirectory) -> None:
        """Raise ExportError now if a model trained from `base` could not be exported later."""
        from marin_sft.export.directory import check_export

        check_export(self, base.config, self._directory(base))

    def write(
        self,
        path: str,
        tensors: Mapping[str, np.ndarray],
        base: ModelDirectory,
        metrics: Mapping[str, float],
    ) -> list[File]:
        """Export `tensors`, the weights of a model trained from `base`. Returns the files. Raises ExportError."""
        from marin_sft.export.directory import write_export

        files: list[File] = []
        write_export(
            path,
            tensors,
            base.config,
            self,
            self._directory(base),
            metrics,
            lambda local: files.extend(files_of(local)),
        )
        return files

    def _directory(self, base: ModelDirectory) -> ModelDirectory:
        """The base model of this config: `base`, unless the config was handwritten for another one."""
        return base if base.path == self.base_model else ModelDirectory(self.base_model)
