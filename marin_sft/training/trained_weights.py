"""What was trained, on its way from the devices to files. Only process 0 writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
from levanter.models.lm_model import LmHeadModel

from marin_sft.training import processes
from marin_sft.training.models import levanter_model, lora, peft_directory
from marin_sft.training.models.adapted_weights import Merged
from marin_sft.training.models.device_tensors import DeviceTensors, read_by_first
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.peft_directory import Adapter
from marin_sft.training.models.stored_tensors import LazyTensors, StoredTensors, shapes_of
from marin_sft.training.models.tensor_names import names_of
from marin_sft.training.models.token_rows import token_ids_of
from marin_sft.training.optimization.freezing import freezing
from marin_sft.training.train_config import TrainConfig

Use: TypeAlias = Callable[[Mapping[str, np.ndarray], Adapter | None], None]
"""use(weights, adapter): the float32 weights of the whole model by Hugging Face name, and the adapter if only one was
trained."""


def used_by_first(config: TrainConfig, base: ModelDirectory, model: LmHeadModel, use: Use) -> None:
    """Call `use` in process 0. All processes must call this, and return once `use` has.

    Weights that were not trained are read from `base` again, so they are exact: the devices may hold them in a shorter
    type. Each tensor is read when it is needed, so process 0 never holds a whole copy, and the others hold none.
    """
    if config.lora is not None:
        tensors = lora.adapter_tensors(model)
        adapter = Adapter(config.lora, tensors, peft_directory.same_ids(tensors, token_ids_of(model)))
        names = levanter_model.state_shapes(model).keys() - adapter.tensors.keys()
        return processes.by_first(lambda: use(Merged(base.tensors(), adapter, names), adapter))
    frozen = freezing(config)
    trained = DeviceTensors(model, names_of(base))
    if frozen is None:
        return read_by_first(trained, lambda weights: use(weights, None))
    never = frozenset(frozen.frozen())
    return read_by_first(trained, lambda weights: use(_PartlyStored(weights, base.tensors(), never), None))


class _PartlyStored(LazyTensors):
    """`weights`, those named in `names` as they are `stored`."""

    def __init__(self, weights: Mapping[str, np.ndarray], stored: StoredTensors, names: frozenset[str]) -> None:
        self._weights, self._stored, self._names = weights, stored, names

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._stored[name], np.float32) if name in self._names else self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return shapes_of(self._weights)
