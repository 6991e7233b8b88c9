"""Splitting the work of a step over Ray tasks, if the step runs on Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from marin_sft import progress
from marin_sft.execution.ray_environment import secrets_of_this_process

if TYPE_CHECKING:
    from ray import ObjectRef

T = TypeVar("T")
R = TypeVar("R")


def map_shards(
    fn: Callable[[T], R], items: Sequence[T], unit: str = "parts", sizes: Sequence[float] | None = None
) -> list[R]:
    """`[fn(item) for item in items]`, in Ray tasks if the caller is a step on Ray. Keeps the order.

    `fn` must be a module-level function; items and results must be picklable. Raises what `fn` raises; then tasks that
    have not ended are stopped.

    As tasks end, they are reported as progress in `unit`. sizes: how much of it each item is; None: 1. Without tasks,
    `fn` runs in the caller's process and can report for itself.
    """
    ray = sys.modules.get("ray")
    if len(items) < 2 or ray is None or not ray.is_initialized():
        return [fn(item) for item in items]
    step = ray.get_runtime_context().get_task_name() or "map_shards"
    task = ray.remote(_shard).options(name=f"{step} {fn.__qualname__}", max_retries=3)
    secrets = secrets_of_this_process()
    references = [task.remote(fn, item, secrets) for item in items]
    size_of = dict(zip(references, sizes or [1] * len(items), strict=True))
    pending = references
    done, total = 0.0, sum(size_of.values())
    try:
        while pending:
            ended, pending = _wait(pending)
            ray.get(ended)
            done += sum(size_of[reference] for reference in ended)
            progress.report(done, total, unit)
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


def _wait(pending: list[ObjectRef]) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """The tasks that have ended, at least one, and the others."""
    import ray

    first, rest = ray.wait(pending, num_returns=1, fetch_local=False)
    more, rest = ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False) if rest else ([], [])
    return [*first, *more], rest


def _shard(fn: Callable[[T], R], item: T, secrets: dict[str, str]) -> R:
    os.environ.update(secrets)
    return fn(item)
