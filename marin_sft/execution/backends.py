"""Where attempts run: `InlineBackend` runs them in this process, one by one; `ray_backend.RayBackend` on Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from typing import Protocol

from marin_sft.execution.resources import RuntimeEnv, lacking_here
from marin_sft.execution.worker import Outcome, Task, run_attempt


class Backend(Protocol):
    """Runs tasks.

    A future raises `InfrastructureLoss` if the worker was lost, and `OutOfMemory` if it was killed for its memory use.
    It never raises the step's own errors.
    """

    capacity: int | None

    def submit(self, task: Task) -> Future[Outcome]: ...

    def wait(self, running: Collection[Future[Outcome]], timeout: float | None) -> set[Future[Outcome]]:
        """Wait until a future has ended or `timeout` seconds have passed. Returns those that have ended."""
        ...

    def let_keep(self) -> None:
        """Ask what runs to keep what it has done and end, and wait for it. What cannot do so ends at once."""
        ...

    def close(self) -> None:
        """Stop everything that still runs and release all processes."""
        ...


class InlineBackend:
    """Runs each task immediately in the calling thread, so that breakpoints and profilers work.

    notify: receives messages for the user.
    """

    capacity: int | None = 1

    def __init__(self, notify: Callable[[str], None] = print) -> None:
        self._notify = notify
        self._told: set[str] = set()

    def submit(self, task: Task) -> Future[Outcome]:
        self._tell_what_is_lacking(task)
        future: Future[Outcome] = Future()
        try:
            with _variables(task.resources.runtime_env):
                future.set_result(run_attempt(dataclasses.replace(task, hosts=1), own_process=False))
        except Exception as error:  # from the store; errors of the body are in the outcome
            future.set_exception(error)
        return future

    def wait(self, running: Collection[Future[Outcome]], timeout: float | None) -> set[Future[Outcome]]:
        return set(running)

    def _tell_what_is_lacking(self, task: Task) -> None:
        """Each message once."""
        env = task.resources.runtime_env
        unset = [f"runtime_env.{name}" for name in ("pip", "working_dir") if env and getattr(env, name)]
        texts = [
            *lacking_here(task.resources),
            *(f"{name} needs a separate process, so --backend inline ignores it" for name in unset),
        ]
        for text in texts:
            if text not in self._told:
                self._told.add(text)
                self._notify(f"{task.name}: {text}")

    def let_keep(self) -> None:
        """Nothing to do: SIGTERM went to this process, which runs the body."""

    def close(self) -> None:
        """Nothing to do: a task has ended by the time `submit` returns."""


@contextlib.contextmanager
def _variables(env: RuntimeEnv | None) -> Iterator[None]:
    """Set the variables of `env`. The rest of `env` needs a separate process."""
    before = os.environ.copy()
    os.environ.update(env.env_vars if env else {})
    try:
        yield
    finally:
        for name in env.env_vars if env else ():
            os.environ.pop(name)
            os.environ.update({name: before[name]} if name in before else {})
