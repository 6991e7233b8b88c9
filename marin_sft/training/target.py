"""What programs are compiled for: the devices of this process, or others, whose memory use is predicted here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Target:
    """platform: JAX's name, such as "gpu". memory: the bytes of a device that JAX may use. None: not known.

    device: its name in `machines.devices()`, if its own compiler is used on a machine without one.
    """

    platform: str
    memory: int | None
    device: str | None = None


_assumed: ContextVar[Target | None] = ContextVar("target", default=None)


def target() -> Target:
    found = _assumed.get()
    if found is not None:
        return found
    stats = jax.local_devices()[0].memory_stats() or {}
    return Target(jax.default_backend(), stats.get("bytes_limit"))


def is_assumed() -> bool:
    """Whether programs are compiled for other devices. They cannot run then."""
    return _assumed.get() is not None


def has_stand_ins() -> bool:
    """Whether the compiler for CPUs compiles programs for other devices. What CPUs cannot compute is then replaced by
    something that takes as much memory."""
    found = _assumed.get()
    return found is not None and found.platform != "cpu" and found.device is None


@contextmanager
def compiling_for(other: Target) -> Iterator[None]:
    token = _assumed.set(other)
    try:
        yield
    finally:
        _assumed.reset(token)
