"""Resuming from the newest checkpoint that can be restored."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np
from levanter.trainer import Trainer
from levanter.trainer_state import TrainerState

from marin_sft.errors import TrainingError
from marin_sft.training import checkpoints, levanter_trainer
from marin_sft.training.checkpoints import Checkpoint

_NONE, _FAILED = -1, -2


def restored(
    output_paths: Sequence[str], state: TrainerState, trainer: Trainer, require_same_run: Callable[[Checkpoint], None]
) -> tuple[TrainerState, Checkpoint | None]:
    """The train state to resume from, and its checkpoint; or `state` and None, if no checkpoint was finished.

    `state` is consumed. A checkpoint that cannot be restored is skipped for the one before, with a message.

    Raises:
        TrainingError: there are finished checkpoints, but none can be restored. Also what `require_same_run` raises.
    """
    lost: dict[str, str] = {}
    room = levanter_trainer.Room(state)
    while (start := _newest(output_paths, lost)) is not None:
        require_same_run(start)
        wrong = None
        try:
            state = room.load(start.path, trainer)
        except TrainingError as error:
            wrong = str(error)
        if _all_processes(wrong is None):
            if lost and jax.process_index() == 0:
                print(f"going on from {start.path}", file=sys.stderr)
            return state, start
        checkpoints.lose(lost, start.path, wrong or "another process cannot restore it")
    return state, None


def _newest(output_paths: Sequence[str], lost: dict[str, str]) -> Checkpoint | None:
    """`checkpoints.newest` of process 0: only one process reads the files, and all resume from the same state."""
    if jax.process_count() == 1:
        return checkpoints.newest(output_paths, lost)
    found = np.array([_NONE, 0])
    failure: TrainingError | None = None
    if jax.process_index() == 0:
        try:
            start = checkpoints.newest(output_paths, lost)
        except TrainingError as error:
            found[0], failure = _FAILED, error
        else:
            found = found if start is None else np.array([start.step, list(output_paths).index(start.output_path)])
    from jax.experimental import multihost_utils

    step, number = (int(value) for value in multihost_utils.broadcast_one_to_all(found))
    if step == _FAILED:
        raise failure or TrainingError("no checkpoint can be restored; the log of process 0 says why")
    return None if step == _NONE else checkpoints.read(output_paths[number], step)


def _all_processes(done: bool) -> bool:
    """Whether `done` is True in all processes."""
    if jax.process_count() == 1:
        return done
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(done)).all())
