"""The weights of a model on the devices of one or several processes, by Hugging Face name, read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import haliax as hax
import jax
import numpy as np
from levanter.models.lm_model import LmHeadModel

from marin_sft.training import processes
from marin_sft.training.models import levanter_model
from marin_sft.training.models.stored_tensors import LazyTensors
from marin_sft.training.models.tensor_names import Names


class _Place(NamedTuple):
    """A tensor is the array, or one layer of it, in another shape."""

    array: jax.Array
    layer: int | None
    shape: tuple[int, ...]


class DeviceTensors(LazyTensors):
    """float32. All processes must read the same tensors in the same order: see `read_by_first`."""

    def __init__(self, model: LmHeadModel, names: Names) -> None:
        """names: `tensor_names.names_of` the model."""
        shapes = levanter_model.state_shapes(model)
        self._places: dict[str, _Place] = {}
        leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=lambda node: isinstance(node, hax.NamedArray))
        for path, leaf in leaves:
            here = names[jax.tree_util.keystr(path)]
            for i, name in enumerate(here):
                self._places[name] = _Place(leaf.array, i if len(here) > 1 else None, shapes[name])

    def __getitem__(self, name: str) -> np.ndarray:
        array, layer, shape = self._places[name]
        part = array if layer is None else _layer(array, layer)
        return np.asarray(processes.on_host(part), np.float32).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: place.shape for name, place in self._places.items()}


@jax.jit
def _layer(array: jax.Array, layer: int) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(array, layer, keepdims=False)


def read_by_first(tensors: DeviceTensors, use: Callable[[Mapping[str, np.ndarray]], None]) -> None:
    """Call `use(tensors)` in process 0. The others help to read the tensors, keep none, and wait until it is done.

    Raises:
        TrainingError: in the others, if it failed.
    """
    if not processes.are_several():
        return use(tensors)
    dictation = processes.Dictation()
    if not processes.is_first():
        while (name := dictation()["read"]) is not None:
            tensors[name]
        processes.by_first(lambda: None)
        return None

    def used() -> None:
        try:
            use(_Dictated(tensors, dictation))
        finally:
            dictation({"read": None})

    return processes.by_first(used)


class _Dictated(LazyTensors):
    """`tensors` in process 0, which tells the others what it reads."""

    def __init__(self, tensors: DeviceTensors, dictation: processes.Dictation) -> None:
        self._tensors, self._dictation = tensors, dictation

    def __getitem__(self, name: str) -> np.ndarray:
        self._dictation({"read": name})
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._tensors.shapes()
