"""Resuming from the newest checkpoint that can be restored."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from levanter.trainer import Trainer
from levanter.trainer_state import TrainerState

from marin_sft.errors import TrainingError
from marin_sft.training import checkpoints, levanter_trainer, processes
from marin_sft.training.checkpoints import Checkpoint


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
        if all(said is None for said in processes.of_all(wrong)):
            if lost and processes.is_first():
                print(f"going on from {start.path}", file=sys.stderr)
            return state, start
        checkpoints.lose(lost, start.path, wrong or "another process cannot restore it")
    return state, None


def _newest(output_paths: Sequence[str], lost: dict[str, str]) -> Checkpoint | None:
    """`checkpoints.newest` of process 0: the others look at another time, while an earlier attempt may still write.

    Raises:
        TrainingError: in all processes, if there are checkpoints but none is intact, or if one cannot see it.
    """
    if not processes.are_several():
        return checkpoints.newest(output_paths, lost)
    start: Checkpoint | None = None

    def choose() -> None:
        nonlocal start
        start = checkpoints.newest(output_paths, lost)

    processes.by_first(choose)
    chosen = processes.told_by_first(start and [start.output_path, start.step])
    if chosen is None:
        return None
    start = checkpoints.read(*chosen)
    blind = [i for i, sees in enumerate(processes.of_all(start is not None)) if not sees]
    if blind:
        raise TrainingError(
            f"{checkpoints.checkpoint_path(*chosen)}: process 0 resumes from it, but process {blind[0]} does not see "
            "it: is the prefix shared?"
        )
    return start
