"""The machines of accelerators: how many hosts and chips a TPU slice has. The only such table.

Sources: https://cloud.google.com/tpu/docs/v4 and the pages of the other generations.
"""

from __future__ import annotations

from dataclasses import dataclass

CHIPS_PER_HOST = 4


@dataclass(frozen=True)
class TpuGeneration:
    """cores: per chip; a type such as "v4-8" counts cores. largest_host: the most chips of a slice with one host."""

    cores: int
    largest_host: int = CHIPS_PER_HOST


TPUS = {
    "v2": TpuGeneration(cores=2),
    "v3": TpuGeneration(cores=2),
    "v4": TpuGeneration(cores=2),
    "v5p": TpuGeneration(cores=2),
    "v5litepod": TpuGeneration(cores=1, largest_host=8),
    "v6e": TpuGeneration(cores=1, largest_host=8),
    "v7x": TpuGeneration(cores=2),
}
"""By Ray's name, which is Google's except for v5e: "v5litepod"."""


@dataclass(frozen=True)
class Slice:
    """`hosts` machines with `chips` TPU chips each."""

    hosts: int
    chips: int


def slice_of(tpu_type: str) -> Slice | None:
    """The machines of a slice such as "v4-128". None: there is no such slice."""
    kind, _, size = tpu_type.partition("-")
    generation = TPUS.get(kind)
    if generation is None or not size.isdecimal() or size.startswith("0"):
        return None
    chips, odd = divmod(int(size), generation.cores)
    if odd or chips == 0:
        return None
    if chips <= generation.largest_host:
        return Slice(1, chips) if chips in (1, 2, 4, 8) else None
    return None if chips % CHIPS_PER_HOST else Slice(chips // CHIPS_PER_HOST, CHIPS_PER_HOST)
