"""Where tensors go while a model is loaded: each device takes different rows, so each process reads only those.

Rows are together in a file. The final layout may be another. The devices exchange them afterwards.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Shape: TypeAlias = tuple[int, ...]


class RowPlacement:
    """mesh: the devices. None: the default device of each process takes whole tensors."""

    def __init__(self, mesh: Mesh | None) -> None:
        self._mesh = mesh

    def rows(self, shape: Shape) -> slice | None:
        """The rows of a tensor that the devices of this process take. None: all."""
        if self._mesh is None or not shape:
            return None
        sharding = self._sharding(shape)
        places = [index[0].indices(shape[0]) for index in sharding.addressable_devices_indices_map(shape).values()]
        first, end = min(start for start, _, _ in places), max(stop for _, stop, _ in places)
        return None if (first, end) == (0, shape[0]) else slice(first, end)

    def place(self, shape: Shape, part: np.ndarray) -> jax.Array:
        """The tensor on the devices. part: its `rows`."""
        if self._mesh is None:
            return jax.numpy.asarray(part)
        rows = self.rows(shape)
        before = 0 if rows is None else rows.start

        def shard(index: tuple[slice, ...]) -> np.ndarray:
            if not shape:
                return part
            start, stop, _ = index[0].indices(shape[0])
            return part[start - before : stop - before]

        return jax.make_array_from_callback(shape, self._sharding(shape), shard)

    def _sharding(self, shape: Shape) -> NamedSharding:
        assert self._mesh is not None
        axes = _axes(tuple(self._mesh.shape.items()), shape[0]) if shape else ()
        return NamedSharding(self._mesh, PartitionSpec(axes) if axes else PartitionSpec())


@functools.cache
def _axes(sizes: tuple[tuple[str, int], ...], rows: int) -> tuple[str, ...]:
    """The axes of a mesh over which so many rows are spread: those with most devices whose number divides them."""
    choices = (some for count in range(len(sizes) + 1) for some in itertools.combinations(sizes, count))
    fitting = [some for some in choices if rows % math.prod(size for _, size in some) == 0]
    best = max(fitting, key=lambda some: math.prod(size for _, size in some))
    return tuple(name for name, size in best if size > 1)
