"""Metrics to Weights & Biases: see `trackers.WandbConfig`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from typing import Literal

from marin_sft import disk
from marin_sft.paths import file_system
from marin_sft.training.metrics.tracker import Histograms, Run
from marin_sft.training.models.model_config import Fields


class WandbTracker:
    """A wandb run. Its files are in `wandb/` of the output; in an object store, only after it is closed."""

    def __init__(
        self,
        run: Run,
        *,
        project: str | None,
        entity: str | None,
        group: str | None,
        name: str | None,
        tags: tuple[str, ...],
        mode: Literal["online", "offline", "disabled"] | None,
    ) -> None:
        """The options: see `WandbConfig`."""
        import wandb

        self._wandb = wandb
        self._filesystem, self._output = file_system(run.output_path)
        self._stack = contextlib.ExitStack()
        directory = self._output
        if not disk.is_local(self._filesystem):
            directory = self._stack.enter_context(tempfile.TemporaryDirectory())
        os.makedirs(directory, exist_ok=True)
        self._directory = directory
        self._run = wandb.init(
            project=project,
            entity=entity,
            group=group,
            name=name or run.name,
            tags=tags or None,
            mode=mode,
            config=dict(run.config),
            dir=directory,
            id=run.resumed.get("id"),
            resume="allow" if run.resumed else None,
            reinit="create_new",
            # The attempt's log has the console output. Neither code nor environment may leave the machine.
            settings=wandb.Settings(console="off", silent=True, disable_code=True, disable_git=True),
        )
        if self._run.url:
            print(f"wandb: {self._run.url}", flush=True)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def log_histograms(self, step: int, histograms: Histograms) -> None:
        found = {name: self._wandb.Histogram(np_histogram=histogram) for name, histogram in histograms.items()}
        self._run.log(found, step=step)

    def state(self) -> Fields:
        return {"id": self._run.id}

    def close(self, *, failed: bool) -> None:
        with self._stack:
            self._run.finish(exit_code=int(failed))
            written = os.path.join(self._directory, "wandb")
            if self._directory != self._output and os.path.isdir(written):
                self._filesystem.put(written, f"{self._output}/wandb", recursive=True)
