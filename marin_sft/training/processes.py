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
import numpy as np

from marin_sft.errors import InfrastructureLoss, TrainingError

_PATIENCE_MS = 7 * 24 * 3600 * 1000  # a process that has died is noticed by its heartbeats, much earlier
_numbers = itertools.count()


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def are_several() -> bool:
    return jax.process_count() > 1


def new_topic() -> str:
    """A name for what is told once. The main threads of all processes must call it."""
    return f"marin_sft/{next(_numbers)}"


def told_by_first(value: Any = None) -> Any:
    """The `value` of process 0, made of what JSON has. The main threads of all processes must call it."""
    return value if not are_several() else _told(new_topic(), value)


def of_all(value: Any, topic: str | None = None) -> list[Any]:
    """The value of each process, in order, made of what JSON has. All processes must call it, in threads other than the
    main one with a `new_topic`."""
    if not are_several():
        return [value]
    key, client = topic or new_topic(), _client()
    client.key_value_set(f"{key}/{jax.process_index():06d}", json.dumps(value))
    client.wait_at_barrier(key, _PATIENCE_MS)
    found = sorted(client.key_value_dir_get(f"{key}/"))
    return [json.loads(text) for _, text in found]


def by_first(work: Callable[[], None]) -> None:
    """Process 0 does `work`. The others wait until it is done, however long it takes.

    Raises:
        TrainingError, InfrastructureLoss: in the others, if it failed; the latter if that was in JAX, as when a process
            is lost.
    """
    if not are_several():
        return work()
    key = new_topic()
    if not is_first():
        wrong, in_jax = _told(key)
        if wrong is not None:
            raise (InfrastructureLoss if in_jax else TrainingError)(f"process 0 failed: {wrong}")
        return None
    try:
        work()
    except BaseException as error:
        _told(key, [f"{type(error).__name__}: {error}", isinstance(error, jax.errors.JaxRuntimeError)])
        raise
    _told(key, [None, False])


class Dictation:
    """A series of messages from process 0 to the others, which are busy with nothing else."""

    def __init__(self) -> None:
        self._topic, self._numbers = new_topic(), itertools.count()

    def __call__(self, value: Any = None) -> Any:
        """The next message: `value` in process 0."""
        return _told(f"{self._topic}/{next(self._numbers)}", value)


def on_host(array: jax.Array) -> np.ndarray:
    """The whole array. All processes must call it.

    Each host gets a copy that its devices share along an axis whose size their number divides. Without such an axis,
    each device gets one.
    """
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = jax.sharding.Mesh(np.array(devices).reshape(jax.process_count(), -1), ("host", "device"))
    axis = next((i for i, size in enumerate(array.shape) if size % mesh.shape["device"] == 0), None)
    spec = jax.sharding.PartitionSpec(*("device" if i == axis else None for i in range(array.ndim)))
    return np.asarray(jax.device_put(array, jax.sharding.NamedSharding(mesh, spec)))


def _told(key: str, value: Any = None) -> Any:
    if is_first():
        _client().key_value_set(key, json.dumps(value))
        return value
    return json.loads(_client().blocking_key_value_get(key, _PATIENCE_MS))


def _client() -> Any:
    from jax._src import distributed  # JAX has no public name for it

    return distributed.global_state.client
