"""What the processes of one training tell each other. A training in one process waits for nothing.

Messages go through the coordinator of `jax.distributed`, not over the devices. So they can be waited for while another
process works for hours, and in any thread.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax

from marin_sft.errors import TrainingError

_PATIENCE_MS = 7 * 24 * 3600 * 1000  # a process that has died is noticed by its heartbeats, much earlier
_numbers = itertools.count()


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def are_several() -> bool:
    return jax.process_count() > 1


def told_by_first(value: Any = None) -> Any:
    """The `value` of process 0, made of what JSON has. The main threads of all processes must call it."""
    return value if not are_several() else _told(f"first/{next(_numbers)}", value)


def of_all(value: Any, name: str | None = None) -> list[Any]:
    """The value of each process, in order, made of what JSON has. All processes must call it: from their main threads,
    or from any with a `name` that is used once."""
    if not are_several():
        return [value]
    key = f"marin_sft/{name or f'all/{next(_numbers)}'}"
    client = _client()
    client.key_value_set(f"{key}/{jax.process_index():06d}", json.dumps(value))
    client.wait_at_barrier(key, _PATIENCE_MS)
    found = sorted(client.key_value_dir_get(f"{key}/"))
    return [json.loads(text) for _, text in found]


def by_first(work: Callable[[], None]) -> None:
    """Process 0 does `work`. The others wait until it is done, however long it takes.

    Raises:
        TrainingError: in the others, if it failed.
    """
    if not are_several():
        return work()
    key = f"done/{next(_numbers)}"
    if not is_first():
        wrong = _told(key, None)
        if wrong is not None:
            raise TrainingError(f"process 0 failed: {wrong}")
        return None
    try:
        work()
    except BaseException as error:
        _told(key, f"{type(error).__name__}: {error}")
        raise
    _told(key, None)


class Dictation:
    """A series of messages from process 0 to the others, which are busy with nothing else."""

    def __init__(self) -> None:
        self._key, self._numbers = f"dictation/{next(_numbers)}", itertools.count()

    def __call__(self, value: Any = None) -> Any:
        """The next message: `value` in process 0."""
        return _told(f"{self._key}/{next(self._numbers)}", value)


def _told(key: str, value: Any) -> Any:
    if is_first():
        _client().key_value_set(f"marin_sft/{key}", json.dumps(value))
        return value
    return json.loads(_client().blocking_key_value_get(f"marin_sft/{key}", _PATIENCE_MS))


def _client() -> Any:
    from jax._src import distributed  # JAX has no public name for it

    return distributed.global_state.client
