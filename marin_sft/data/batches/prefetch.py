"""Prepares the next steps in a background thread while the caller is busy with the current one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


def prefetched(make: Callable[[int], T], steps: Iterable[int], ahead: int = 2) -> Iterator[T]:
    """`make(step)` for each of `steps`, up to `ahead` of them in advance, in one background thread.

    An exception of `make` is raised here, at its step. Closing the iterator ends the thread.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    pending: deque[Future[T]] = deque()
    try:
        for step in steps:
            pending.append(pool.submit(make, step))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Prefetched(Generic[T]):
    """`make(step)` on each call. As long as steps are consecutive, up to `ahead` are made in advance. Use in a `with`.

    `stop`: the first step that is never needed.
    """

    def __init__(self, make: Callable[[int], T], stop: int, ahead: int = 2) -> None:
        self._make, self._stop, self._ahead = make, stop, ahead
        self._next: int | None = None
        self._running: Iterator[T] = iter(())

    def __call__(self, step: int) -> T:
        if step != self._next:
            self.close()
            self._running = prefetched(self._make, range(step, self._stop), self._ahead)
        self._next = step + 1
        return next(self._running)

    def close(self) -> None:
        """End the thread, after its current step."""
        close = getattr(self._running, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Prefetched[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
