"""Warns a step when its node will be taken away, which Ray calls draining."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from marin_sft import preemption
from marin_sft.execution.background import background

_LOOK = 1.0  # seconds


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Inside the block, in a Ray worker: call `preemption.warn` once the worker's node is draining."""
    import ray
    from ray._private.state import state

    node = ray.get_runtime_context().get_node_id()

    def watch(ended: threading.Event) -> None:
        while not ended.wait(_LOOK):
            with contextlib.suppress(Exception):  # the next look may succeed
                if node in state.get_draining_nodes():
                    print("this host will be taken away: Ray is draining its node", flush=True)
                    preemption.warn()
                    return

    with background(watch):
        yield
