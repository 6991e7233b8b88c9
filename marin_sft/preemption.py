"""How a running step learns that its machine will soon be taken away. It does not know who says so.

if preemption.expected():
    save everything, then raise errors.Preempted
"""

import threading

_notice = threading.Event()


def warn() -> None:
    """This process, or another one of the same step, will be stopped soon."""
    _notice.set()


def expected() -> bool:
    """Whether this process was warned."""
    return _notice.is_set()
