"""How a running step learns that its machine will soon be taken away. It does not know who says so.

if preemption.expected():
    save everything, then raise errors.Preempted
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_notice = threading.Event()


def warn() -> None:
    """This process, or another one of the same step, will be stopped soon."""
    _notice.set()


def expected() -> bool:
    """Whether this process was warned."""
    return _notice.is_set()


@contextlib.contextmanager
def told_by_sigterm() -> Iterator[None]:
    """Inside the block, the first SIGTERM is a warning. A second one does what the first would do outside. Only the
    main thread can set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outside = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def notice(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, outside)
        warn()

    signal.signal(signal.SIGTERM, notice)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, outside)
