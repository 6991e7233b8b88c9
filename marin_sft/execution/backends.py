"""Where attempts run. `InlineBackend` runs them here, one after another; `ray_backend.RayBackend` on Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from marin_sft.execution.worker import Outcome, Task, run_attempt

T = TypeVar("T")
R = TypeVar("R")


class Backend(Protocol):
    """Runs tasks. A future raises `InfrastructureLoss` when the worker was lost, never for the step's own errors."""

    capacity: int | None

    def submit(self, task: Task) -> Future[Outcome]: ...

    def close(self) -> None:
        """Stop whatever still runs and let go of all processes."""
        ...


class InlineBackend:
    """Runs each task at once in this very thread, so that breakpoints and profilers work."""

    capacity: int | None = 1

    def submit(self, task: Task) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        try:
            future.set_result(run_attempt(task, own_process=False))
        except Exception as error:  # of the store; a body's own end up in the outcome
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing runs any more when `submit` has returned."""


def map_shards(fn: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`[fn(item) for item in items]`, spread over Ray tasks when the caller is a step on Ray; order kept.

    `fn` must be a module-level function, its items and results picklable. Raises what `fn` raises.
    """
    ray = sys.modules.get("ray")
    if len(items) < 2 or ray is None or not ray.is_initialized():
        return [fn(item) for item in items]
    task = ray.remote(fn).options(name=f"map_shards {fn.__qualname__}", max_retries=3)
    try:
        return ray.get([task.remote(item) for item in items])
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None
