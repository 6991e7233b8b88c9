"""A thread that runs as long as a block."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def background(run: Callable[[threading.Event], None]) -> Iterator[None]:
    """Inside the block, `run(ended)` runs in a thread. It must return once `ended` is set, and is waited for."""
    ended = threading.Event()
    thread = threading.Thread(target=run, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
