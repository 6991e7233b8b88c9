"""Where resume checkpoints lie, when the next is due, and which one to go on from.

{output_path}/checkpoints/step-{N}/    the train state after N steps, counters.json, metadata.json (written last)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import fsspec

COMPLETE = "metadata.json"
COUNTERS = "counters.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint of the attempt whose output directory is `output_path`."""

    output_path: str
    step: int

    @property
    def path(self) -> str:
        return checkpoint_path(self.output_path, self.step)


def checkpoint_path(output_path: str, step: int) -> str:
    return f"{output_path}/checkpoints/step-{step}"


def newest(output_paths: Iterable[str]) -> Checkpoint | None:
    """The complete checkpoint with the most steps; of equals, the one of the first path."""
    found = [Checkpoint(path, step) for path in output_paths for step in _complete_steps(path)]
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def _complete_steps(output_path: str) -> list[int]:
    filesystem, plain = fsspec.core.url_to_fs(output_path)
    marks = filesystem.glob(f"{plain}/checkpoints/step-*/{COMPLETE}")
    return [int(mark.rsplit("/", 2)[-2].removeprefix("step-")) for mark in marks]


def write_counters(path: str, counters: dict[str, int]) -> None:
    """Keep the host's counters with the checkpoint at `path`, before its train state completes it."""
    filesystem, plain = fsspec.core.url_to_fs(path)
    filesystem.makedirs(plain, exist_ok=True)
    with filesystem.open(f"{plain}/{COUNTERS}", "w") as file:
        json.dump(counters, file)


def read_counters(path: str) -> dict[str, int]:
    filesystem, plain = fsspec.core.url_to_fs(path)
    with filesystem.open(f"{plain}/{COUNTERS}", "r") as file:
        return json.load(file)


def remove(output_path: str, keep_step: int | None = None) -> None:
    """Remove this attempt's checkpoints, all but the one of `keep_step`."""
    filesystem, plain = fsspec.core.url_to_fs(output_path)
    for directory in filesystem.glob(f"{plain}/checkpoints/step-*"):
        if not directory.endswith(f"/step-{keep_step}"):
            filesystem.rm(directory, recursive=True)
    if keep_step is None and filesystem.isdir(f"{plain}/checkpoints"):
        filesystem.rm(f"{plain}/checkpoints", recursive=True)


@dataclass
class Cadence:
    """Every `steps` steps, or once `minutes` have passed since the last; None: not by that measure."""

    steps: int | None
    minutes: float | None
    last: float = field(default_factory=time.monotonic)

    def due(self, step: int) -> bool:
        by_steps = self.steps is not None and step % self.steps == 0
        by_time = self.minutes is not None and time.monotonic() - self.last >= 60 * self.minutes
        return by_steps or by_time

    def reset(self) -> None:
        self.last = time.monotonic()
