"""What all processes of a training do after a step, although only some of them may have a reason for it."""

from __future__ import annotations

import enum
import functools

import jax
import jax.numpy as jnp
import numpy as np

from marin_sft.training import processes


class Decision(enum.IntEnum):
    """The later one counts if processes differ."""

    GO_ON = 0
    CHECKPOINT = 1
    OUT_OF_TIME = 2
    LEAVE = 3


class Decisions:
    """Finds what the processes agree on, without waiting for the devices.

    The wishes of a step are compared on the devices, right after the step. The result is read after the next step is on
    its way, like the step's own figures. So a decision of several processes comes a step later than that of one.
    """

    def __init__(self) -> None:
        self._under_way: jax.Array | None = None

    def after(self, wish: Decision) -> Decision:
        """What to do now. All processes must call it after the same steps, each with its own wish."""
        if not processes.are_several():
            return wish
        before, self._under_way = self._under_way, _largest(wish)
        return Decision.GO_ON if before is None else Decision(int(before))

    def forget(self) -> None:
        """Drop a wish that is not yet decided on, because what it asks for was just done."""
        self._under_way = None


def _largest(number: int) -> jax.Array:
    """The largest `number` of all processes, possibly not computed yet."""
    mesh, compiled = _compiled()
    each = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
    here = [jax.device_put(np.full(1, number, np.int32), device) for device in jax.local_devices()]
    with jax.set_mesh(mesh):
        return compiled(jax.make_array_from_single_device_arrays((jax.device_count(),), each, here))


@functools.cache
def _compiled() -> tuple[jax.sharding.Mesh, jax.stages.Wrapped]:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return mesh, jax.jit(jnp.max, out_shardings=everywhere)
