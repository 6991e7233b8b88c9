"""Handles SIGTERM like Ctrl-C, and tells whether there was a Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM, which asks a process to end soon. Ctrl-C asks it to end at once."""


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Inside the block, SIGTERM raises Terminated, a KeyboardInterrupt. Only the main thread can set handlers."""
    with handler_of_sigterm_kept():
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _raise_terminated)
        yield


def _raise_terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


@contextlib.contextmanager
def handler_of_sigterm_kept() -> Iterator[None]:
    """Restore the handler after the block, even if the block sets another one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def interrupts_noted() -> Iterator[Callable[[KeyboardInterrupt], bool]]:
    """Inside the block, signals do what they did before. Yields whether a KeyboardInterrupt came from a signal."""
    came = threading.Event()

    def by_signal(error: KeyboardInterrupt) -> bool:
        return isinstance(error, Terminated) or came.is_set()

    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if here else None
    if not callable(before):  # in another thread, or where the signal is ignored, it raises nothing
        yield by_signal
        return
    handler = before

    def note(signum: int, frame: FrameType | None) -> None:
        came.set()
        handler(signum, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield by_signal
    finally:
        # The body may have set a handler that raises, too: whose interrupt it was is then unknown.
        if signal.getsignal(signal.SIGINT) is not note:
            came.set()
        signal.signal(signal.SIGINT, before)
