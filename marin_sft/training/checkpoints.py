"""Resume checkpoints: their settings, where they are, when the next is due, and which one to resume from.

{output_path}/checkpoints/step-{N}/                   the train state after N steps
{output_path}/checkpoints/step-{N}/checkpoint.json    what it was trained with, and the size and digest of each file;
                                                      written last, when the files are on disk
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from marin_sft import disk
from marin_sft.arguments import part_of_config
from marin_sft.errors import TrainingError
from marin_sft.execution.step import execution_only, omitted_when
from marin_sft.paths import file_system, names_in, remove_all
from marin_sft.training.checks import require
from marin_sft.training.models.model_config import Fields
from marin_sft.training.stops import TimeLimit, parse_duration

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MARK = "checkpoint.json"
KEPT = 2  # the newest, and the one before in case the newest is damaged
_READ_AT_ONCE = 2**22
_OF_STORES = ("crc32c", "ETag")  # digests that object stores keep, under fsspec's names


@part_of_config
class CheckpointSettings:
    """What training keeps while it runs. Checkpoints are removed once the model is written."""

    steps_per_checkpoint: int | None = execution_only(default=None)
    """Steps between two checkpoints. None: by time only."""

    minutes_per_checkpoint: float | None = execution_only(default=10.0)
    """Minutes between two checkpoints. None: by steps only."""

    save_total_limit: int | None = execution_only(default=None)
    """How many checkpoints to keep while training. 0: all. None: two."""

    hf_exports_kept: int | None = omitted_when(None, default=None)
    """How many of the newest exports made while training to keep. None: all."""

    save_optimizer_state: bool = omitted_when(False, default=False)
    """Keep the training state in each export written while training, to resume from after training has ended."""

    resume_from: str | None = execution_only(default=None)
    """Directory of such an export. Training goes on from its state unless this step has a newer checkpoint of its own.
    It must be of a training with the same settings, so the result is that of an undisturbed run."""

    stop_after: int | float | None = omitted_when(None, default=None)
    """End after these steps, a whole number, or a fraction of all steps, as if they were all. The learning rate and the
    data are those of the whole training. The training state is kept in the output, so that a training of the same
    settings with a later `stop_after`, or none, goes on from there: `resume_from`. None: train to the end."""

    training_time_limit: str | None = execution_only(default=None)
    """After this time, e.g. "90min", "23h" or "2h30m", an attempt writes a checkpoint and fails with a message that
    says how to resume. None: no limit."""

    def check_checkpoints(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        for cadence in ("steps_per_checkpoint", "minutes_per_checkpoint"):
            every = getattr(self, cadence)
            require(self, cadence, every is None or every > 0, "above 0, or None")
        require(self, "save_total_limit", self.save_total_limit is None or self.save_total_limit >= 0, "at least 0")
        exports = self.hf_exports_kept
        require(self, "hf_exports_kept", exports is None or exports >= 1, "at least 1, or None")
        part = self.stop_after
        fits = part is None or (0 < part <= 1 if isinstance(part, float) else part >= 1)
        require(self, "stop_after", fits, "a whole number of steps, a fraction of them up to 1.0, or None")
        if self.training_time_limit is not None:
            parse_duration(self.training_time_limit)

    def cadence(self) -> Cadence:
        """When checkpoints are due. Minutes count from now."""
        return Cadence(self.steps_per_checkpoint, self.minutes_per_checkpoint)

    def time_limit(self) -> TimeLimit:
        """The time limit, counted from now."""
        return TimeLimit(None if self.training_time_limit is None else parse_duration(self.training_time_limit))

    @property
    def checkpoints_kept(self) -> int | None:
        """How many of the newest checkpoints to keep; None: all."""
        return KEPT if self.save_total_limit is None else self.save_total_limit or None


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint of the attempt whose output directory is `output_path`.

    `about`: the JSON values that `finish` was called with.
    """

    output_path: str
    step: int
    about: Fields

    @property
    def path(self) -> str:
        return checkpoint_path(self.output_path, self.step)


def nothing_to_resume(path: str) -> str:
    """Why training cannot resume from `path`, and from where it could."""
    parent = path.rstrip("/").rpartition("/")[0] or "."
    others = sorted(name for name in names_in(parent) if "checkpoints" in names_in(f"{parent}/{name}"))
    there = f"{parent} has {', '.join(others)}" if others else f"there is none in {parent} either"
    return (
        f"resume_from = {path!r}: no training state there; {there}. Exports keep it with save_optimizer_state=True; "
        "the weights of one without can be trained further as base_model"
    )


def checkpoint_path(output_path: str, step: int) -> str:
    return f"{output_path}/checkpoints/step-{step}"


def finish(output_path: str, step: int, about: Fields) -> None:
    """Mark the checkpoint of `step` as complete, after all its files are written. Only one process calls it.

    It first syncs all of `output_path` to disk, because a resumed attempt also copies logs and exports.
    """
    path = checkpoint_path(output_path, step)
    disk.sync(output_path)
    files = _files(path)
    digests = _digests(path, files)
    contents = {name: {"bytes": files[name]["size"], "digest": digests[name]} for name in files}
    disk.write_whole(f"{path}/{MARK}", json.dumps({"about": about, "files": contents}))


def newest(output_paths: Iterable[str], lost: dict[str, str] | None = None) -> Checkpoint | None:
    """The intact checkpoint with the most steps, in the first path that has it. None: none was finished.

    Unfinished and damaged checkpoints are skipped, with a message. So are those in `lost`, which maps paths to what is
    wrong with them; damaged ones are added to it.

    Raises:
        TrainingError: all finished checkpoints are damaged. Training does not silently start over.
    """
    lost = {} if lost is None else lost
    places = sorted(((step, path) for path in output_paths for step in _steps(path)), key=lambda place: -place[0])
    for step, path in places:
        here = checkpoint_path(path, step)
        if here in lost:
            continue
        mark = _read_mark(here)
        if mark is None:
            print(f"{here} was never finished; going on from an older checkpoint or from the start", file=sys.stderr)
            continue
        wrong = _damage(here, mark)
        if wrong is None:
            return Checkpoint(path, step, mark["about"])
        lose(lost, here, wrong)
    if lost:
        reasons = "; ".join(f"{here}: {wrong}" for here, wrong in lost.items())
        raise TrainingError(
            f"all checkpoints are damaged: {reasons}; restore the files, or start over: delete these "
            "directories, or use --force_run"
        )
    return None


def lose(lost: dict[str, str], path: str, wrong: str) -> None:
    """Skip the checkpoint at `path` from now on, with a warning."""
    lost[path] = wrong
    print(f"warning: {path}: {wrong}; going on from an older checkpoint if there is one", file=sys.stderr)


def read(output_path: str, step: int) -> Checkpoint | None:
    """A checkpoint that is known to be intact. None: it cannot be seen from here."""
    mark = _read_mark(checkpoint_path(output_path, step))
    return Checkpoint(output_path, step, mark["about"]) if mark else None


def _steps(output_path: str) -> list[int]:
    _uncached(output_path)
    names = names_in(f"{output_path}/checkpoints")
    return [int(name.removeprefix("step-")) for name in names if name.startswith("step-")]


def _uncached(path: str) -> tuple[AbstractFileSystem, str]:
    """Without fsspec's cached listings, which miss what other processes, and TensorStore in this one, have written."""
    filesystem, plain = file_system(path)
    filesystem.invalidate_cache()
    return filesystem, plain


def _read_mark(path: str) -> Fields | None:
    """None: there is none, because the attempt was killed before it wrote it. {}: it is damaged."""
    filesystem, plain = file_system(path)
    try:
        mark = json.loads(filesystem.cat_file(f"{plain}/{MARK}"))
    except FileNotFoundError:
        return None
    except ValueError:  # not JSON, or not even text
        return {}
    return mark if isinstance(mark, dict) and {"about", "files"} <= mark.keys() else {}


def _damage(path: str, mark: Fields) -> str | None:
    """What is wrong with the files of a checkpoint. None: nothing."""
    if not mark:
        return f"{MARK} is damaged"
    expected, files = mark["files"], _files(path)
    for name, about in expected.items():
        if name not in files:
            return f"{name} is missing"
        if files[name]["size"] != about["bytes"]:
            return f"{name} has {files[name]['size']} bytes, expected {about['bytes']}"
    digests = _digests(path, {name: files[name] for name in expected})
    changed = [name for name in expected if _differ(expected[name]["digest"], digests[name])]
    return f"{changed[0]} has changed since it was written ({len(changed)} of {len(files)} files)" if changed else None


def _differ(one: str, other: str) -> bool:
    """Digests of different kinds count as equal: the files were copied to another kind of store."""
    return one != other and one.partition(":")[0] == other.partition(":")[0]


def _files(path: str) -> dict[str, Fields]:
    """What the file system says about each file below `path`, by name, without the mark."""
    filesystem, plain = _uncached(path)
    found = filesystem.find(plain, detail=True)
    files = {name.removeprefix(plain).lstrip("/"): about for name, about in found.items()}
    return {name: about for name, about in sorted(files.items()) if name != MARK}


def _digests(path: str, files: Mapping[str, Fields]) -> dict[str, str]:
    """The digest of each file: the store's own if it keeps one, else computed from the contents."""
    filesystem, plain = file_system(path)

    def digest(name: str) -> str:
        kept = next((kind for kind in _OF_STORES if files[name].get(kind)), None)
        if kept is not None:
            return f"{kept}:{files[name][kept]}"
        crc = 0
        with filesystem.open(f"{plain}/{name}", "rb") as file:
            while block := file.read(_READ_AT_ONCE):
                crc = zlib.crc32(block, crc)
        return f"crc32:{crc:08x}"

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(files, pool.map(digest, files), strict=True))


def remove(output_path: str, keep: int = 0) -> None:
    """Remove the checkpoints older than this attempt's `keep` newest finished ones. 0: remove all."""
    steps = sorted(_steps(output_path), reverse=True)
    kept = [step for step in steps if _read_mark(checkpoint_path(output_path, step))][:keep]
    old = [step for step in steps if keep == 0 or (kept and step < kept[-1])]
    for step in old:
        remove_all(checkpoint_path(output_path, step))
    if keep == 0:
        remove_all(f"{output_path}/checkpoints")


@dataclass
class Cadence:
    """Due every `steps` steps, and when `minutes` have passed since the last time. None: that rule does not apply."""

    steps: int | None
    minutes: float | None
    last: float = field(default_factory=time.monotonic)

    def by_steps(self, step: int) -> bool:
        return self.steps is not None and step % self.steps == 0

    def by_time(self) -> bool:
        return self.minutes is not None and time.monotonic() - self.last >= 60 * self.minutes

    def reset(self) -> None:
        self.last = time.monotonic()
