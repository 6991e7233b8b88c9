"""Exports that training writes on its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marin_sft.export.hf_config import HfExport
from marin_sft.training.checks import require, unresolved
from marin_sft.training.models.model_directory import ModelDirectory

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class PeriodicExports(HfExport):
    """An export every `steps` training steps and after the last, in the training step's own output."""

    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not unresolved(self):
            require(self, "steps", self.steps >= 1, "at least 1")

    def check(self, base: ModelDirectory) -> None:
        """Raise ExportError now for what would keep a model trained from `base` from being exported later."""
        from marin_sft.export.directory import check_export

        check_export(self, base.config, self._directory(base))

    def write(
        self,
        path: str,
        tensors: Mapping[str, np.ndarray],
        base: ModelDirectory,
        metrics: Mapping[str, float],
    ) -> None:
        """Export `tensors`, the weights of a model trained from `base`. Raises ExportError."""
        from marin_sft.export.directory import write_export

        write_export(path, tensors, base.config, self, self._directory(base), metrics)

    def _directory(self, base: ModelDirectory) -> ModelDirectory:
        """The base model that is named here: `base`, unless the config was written by hand for another."""
        return base if base.path == self.base_model else ModelDirectory(self.base_model)
