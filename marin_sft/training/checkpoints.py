"""Where resume checkpoints lie, when the next is due, and which one to go on from.

{output_path}/checkpoints/step-{N}/                   the train state after N steps
{output_path}/checkpoints/step-{N}/checkpoint.json    what it was trained with and its files' sizes; written last
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from marin_sft.errors import TrainingError
from marin_sft.paths import file_system, names_in, remove_all

MARK = "checkpoint.json"
KEPT = 2  # the newest, and the one before in case that a file of the newest is lost


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint of the attempt whose output directory is `output_path`.

    `about`: what `finish` was given, JSON values.
    """

    output_path: str
    step: int
    about: dict[str, Any]

    @property
    def path(self) -> str:
        return checkpoint_path(self.output_path, self.step)


def checkpoint_path(output_path: str, step: int) -> str:
    return f"{output_path}/checkpoints/step-{step}"


def finish(output_path: str, step: int, about: Mapping[str, Any]) -> None:
    """Say that the checkpoint of `step`, all its files written, is whole. One process does."""
    path = checkpoint_path(output_path, step)
    filesystem, plain = file_system(path)
    with filesystem.open(f"{plain}/{MARK}", "w") as file:
        json.dump({"about": about, "files": _sizes(path)}, file)


def newest(output_paths: Iterable[str]) -> Checkpoint | None:
    """The whole checkpoint with the most steps; of equals, the one of the first path. None: none was finished.

    Unfinished and damaged ones are passed over, and the log says so.

    Raises:
        TrainingError: when all that were finished are damaged: training does not start over by itself.
    """
    places = sorted(((step, path) for path in output_paths for step in _steps(path)), key=lambda place: -place[0])
    damaged = []
    for step, path in places:
        here = checkpoint_path(path, step)
        mark = _read_mark(here)
        if mark is None:
            print(f"{here} was never finished; going on from an older checkpoint or from the start", file=sys.stderr)
            continue
        wrong = _difference(mark["files"], _sizes(here))
        if wrong is None:
            return Checkpoint(path, step, mark["about"])
        damaged.append(f"{here}: {wrong}")
        print(f"{damaged[-1]}; going on from an older checkpoint if there is one", file=sys.stderr)
    if damaged:
        raise TrainingError(
            f"all checkpoints are damaged: {'; '.join(damaged)}; restore the files, or start over: delete these "
            "directories, or use --force_run"
        )
    return None


def _steps(output_path: str) -> list[int]:
    names = names_in(f"{output_path}/checkpoints")
    return [int(name.removeprefix("step-")) for name in names if name.startswith("step-")]


def _read_mark(path: str) -> Any:
    filesystem, plain = file_system(path)
    try:
        with filesystem.open(f"{plain}/{MARK}", "r") as file:
            return json.load(file)
    except (FileNotFoundError, json.JSONDecodeError):  # killed before or while it was written
        return None


def _sizes(path: str) -> dict[str, int]:
    """Bytes of each file below `path`, but for the mark."""
    filesystem, plain = file_system(path)
    found = filesystem.find(plain, detail=True)
    sizes = {name.removeprefix(plain).lstrip("/"): about["size"] for name, about in found.items()}
    sizes.pop(MARK, None)
    return sizes


def _difference(expected: Mapping[str, int], got: Mapping[str, int]) -> str | None:
    for name, size in expected.items():
        if got.get(name) != size:
            return f"{name} has {got[name]} bytes, expected {size}" if name in got else f"{name} is missing"
    return None


def remove(output_path: str, keep: int = 0) -> None:
    """Remove what is older than this attempt's `keep` newest finished checkpoints; 0: all of them."""
    steps = sorted(_steps(output_path), reverse=True)
    kept = [step for step in steps if _read_mark(checkpoint_path(output_path, step)) is not None][:keep]
    old = [step for step in steps if keep == 0 or (kept and step < kept[-1])]
    for step in old:
        remove_all(checkpoint_path(output_path, step))
    if keep == 0:
        remove_all(f"{output_path}/checkpoints")


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
