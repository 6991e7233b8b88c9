"""Splitting the work of a step over Ray tasks, if the step runs on Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from marin_sft.execution.ray_environment import secrets_of_this_process

T = TypeVar("T")
R = TypeVar("R")


def map_shards(fn: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`[fn(item) for item in items]`, in Ray tasks if the caller is a step on Ray. Keeps the order.

    `fn` must be a module-level function; items and results must be picklable. Raises what `fn` raises.
    """
    ray = sys.modules.get("ray")
    if len(items) < 2 or ray is None or not ray.is_initialized():
        return [fn(item) for item in items]
    step = ray.get_runtime_context().get_task_name() or "map_shards"
    task = ray.remote(_shard).options(name=f"{step} {fn.__qualname__}", max_retries=3)
    secrets = secrets_of_this_process()
    try:
        return ray.get([task.remote(fn, item, secrets) for item in items])
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None


def _shard(fn: Callable[[T], R], item: T, secrets: dict[str, str]) -> R:
    os.environ.update(secrets)
    return fn(item)
