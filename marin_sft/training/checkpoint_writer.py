"""Writes checkpoints while training goes on."""

from __future__ import annotations

import contextvars
import threading
from types import TracebackType

from levanter.trainer_state import TrainerState

from marin_sft import progress
from marin_sft.errors import TrainingError
from marin_sft.training import checkpoints, levanter_trainer, processes
from marin_sft.training.models.model_config import Fields

_SECONDS_AFTER_A_FAILURE = 5.0  # with several processes: the others may be gone, and the reason must be told soon


class CheckpointWriter:
    """Writes one checkpoint at a time, in a thread. Use in a `with`, which ends when the last one is written.

    All processes must make the same calls. Each writes its part of the state. Process 0 marks the checkpoint as
    finished once all parts are on disk. output_path: the attempt's own, which a later attempt continues from.
    """

    def __init__(self, output_path: str) -> None:
        self._output_path = output_path
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._step = 0

    def start(self, directory: str, state: TrainerState, step: int, about: Fields, keep: int | None = None) -> None:
        """Begin to write `state`, as it is now, below `directory`.

        about: see `checkpoints.finish`. keep: then remove all but the newest; None: none.

        Raises:
            Exception: the one before could not be written.
        """
        self.finish()
        saved = state.saveable_state
        copied = levanter_trainer.copied(saved)
        work = (directory, saved if copied is None else copied, step, about, keep, processes.new_topic())
        self._step = step
        run = contextvars.copy_context().run  # so that it can report progress
        self._thread = threading.Thread(target=run, args=(self._write, *work), name="checkpoint", daemon=True)
        self._thread.start()
        if copied is None:  # no room for a copy: the state must not change until it is written
            self._thread.join()

    def finish(self) -> None:
        """Wait until it is written. Raises what failed; TrainingError if that was in another process."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, failure = None, self._failure
        self._failure = None
        failures = processes.of_all(None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        for process, wrong in enumerate(failures):
            if wrong is not None:
                raise TrainingError(f"process {process} could not write the checkpoint of step {self._step}: {wrong}")

    def _write(
        self, directory: str, saved: TrainerState, step: int, about: Fields, keep: int | None, topic: str
    ) -> None:
        path = checkpoints.checkpoint_path(directory, step)
        try:
            levanter_trainer.save_state(path, saved, step)
        except Exception as error:
            self._failure = error
        try:
            written = processes.of_all(self._failure is None, topic)
            if all(written) and processes.is_first():
                checkpoints.finish(directory, step, about)
                if directory == self._output_path:
                    progress.kept(step)
                if keep is not None:
                    checkpoints.remove(directory, keep=keep)
        except Exception as error:
            self._failure = self._failure or error

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        elif self._thread is not None and issubclass(kind, Exception):
            self._thread.join(_SECONDS_AFTER_A_FAILURE if processes.are_several() else None)
