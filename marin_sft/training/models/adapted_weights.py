"""Adapters in numpy: their initial tensors, and base and adapter merged into one model. No JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from marin_sft.errors import TrainingError
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models.peft_directory import MAGNITUDE, ROWS, A, Adapter, B, layers_of, read_adapter
from marin_sft.training.models.stored_tensors import LazyTensors, shapes_of


def starting_tensors(
    config: LoraConfig,
    layers: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, np.ndarray],
    rows: Callable[[tuple[int, ...]], slice | None],
    seed: int,
) -> Mapping[str, np.ndarray]:
    """The initial tensors of an adapter for `layers` of the model with these `shapes`: float32, named as in `Adapter`.

    They come from `adapter_path`, or are new: then B = 0, and the model computes what it did. A seed always gives the
    same tensors.

    weights: the model's; only `rows` of them, as of the tensors that are returned. rows: by shape; None: all.

    Raises:
        TrainingError: the stored adapter has other layers or shapes.
    """
    new = _new_tensors(config, layers, shapes, weights, seed)
    if config.adapter_path is None:
        return {name: _part(tensor, shape, rows) for name, (tensor, shape) in new.items()}
    read = read_adapter(config.adapter_path).tensors
    stored = {name: tensor for name, tensor in read.items() if not name.endswith(ROWS)}
    got, expected = {name: tensor.shape for name, tensor in stored.items()}, {name: new[name][1] for name in new}
    wrong = sorted(name for name in {*got, *expected} if got.get(name) != expected.get(name))
    if wrong:
        raise TrainingError(
            f"{config.adapter_path}: {len(wrong)} tensors do not fit the base model, e.g. {wrong[0]}: got "
            f"{got.get(wrong[0], 'none')}, expected {expected.get(wrong[0], 'none')}; give the base model that the "
            "adapter was trained on"
        )
    return {name: _part(tensor, tensor.shape, rows) for name, tensor in stored.items()}


def _part(tensor: np.ndarray, shape: tuple[int, ...], rows: Callable[[tuple[int, ...]], slice | None]) -> np.ndarray:
    some = rows(shape)
    return tensor if some is None or tensor.shape != shape else tensor[some]


def _new_tensors(
    config: LoraConfig,
    layers: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, tuple[np.ndarray, tuple[int, ...]]]:
    """Tensors with their shapes. Of magnitudes, only the rows that `weights` have."""
    assert config.r is not None
    random = np.random.default_rng(seed)
    tensors: dict[str, tuple[np.ndarray, tuple[int, ...]]] = {}
    for layer in sorted(layers):
        out, into = shapes[f"{layer}.weight"]
        if config.init_lora_weights == "gaussian":
            a = random.standard_normal((config.r, into)) / config.r
        else:
            a = random.uniform(-(into**-0.5), into**-0.5, (config.r, into))
        tensors[layer + A] = a.astype(np.float32), (config.r, into)
        tensors[layer + B] = np.zeros((out, config.r), np.float32), (out, config.r)
        if config.use_dora:
            weight = weights[f"{layer}.weight"].astype(np.float32)
            tensors[layer + MAGNITUDE] = np.linalg.norm(weight, axis=1), (out,)
    return tensors


def starting_rows(
    config: LoraConfig, ids: Sequence[int], matrices: Mapping[str, np.ndarray], reinitialised: Sequence[int]
) -> dict[str, np.ndarray]:
    """The initial rows of the tokens `ids`, float32, named as in `Adapter`: those of `matrices`, the model's embedding
    and head by name, or of the adapter at `adapter_path`.

    Raises:
        TrainingError: the adapter has rows of tokens that are `reinitialised`, or rows of another length.
    """
    found = {name: np.asarray(matrix[list(ids)], np.float32) for name, matrix in matrices.items()}
    stored = None if config.adapter_path is None else read_adapter(config.adapter_path)
    for matrix, stored_ids in (stored.token_ids if stored else {}).items():
        assert stored is not None
        rows, own = stored.tensors[matrix + ROWS], found.get(f"{matrix}.weight")
        expected = None if own is None else (len(stored_ids), own.shape[1])
        if own is None or rows.shape != expected:
            raise TrainingError(
                f"{config.adapter_path}: {matrix}{ROWS} is {rows.shape}, expected {expected or 'none'}; give the base "
                "model that the adapter was trained on"
            )
        both = sorted(set(stored_ids) & set(reinitialised))
        if both:
            raise TrainingError(
                f"reinit_tokens: the adapter at {config.adapter_path} has trained the embeddings of ids {both}; "
                "expected reinit_tokens without these tokens"
            )
        own[[ids.index(id) for id in stored_ids]] = rows
    return {name.removesuffix(".weight") + ROWS: rows for name, rows in found.items()}


class Merged(LazyTensors):
    """The weights of base and adapter merged into one model, float32, each computed when it is read.

    `base`: weights by Hugging Face name, in any floating-point type. `names`: those that belong to the model. Layers
    without an adapter keep their weights.
    """

    def __init__(self, base: Mapping[str, np.ndarray], adapter: Adapter, names: Iterable[str]) -> None:
        self._base, self._adapter, self._names = base, adapter, frozenset(names)
        self._adapted = {f"{layer}.weight" for layer in layers_of(adapter.tensors)}

    def __getitem__(self, name: str) -> np.ndarray:
        weight = self._base[name].astype(np.float32)
        layer, tensors = name.removesuffix(".weight"), self._adapter.tensors
        if layer in self._adapter.token_ids:
            weight[list(self._adapter.token_ids[layer])] = tensors[layer + ROWS]
        if name not in self._adapted:
            return weight
        if tensors[layer + B].any():  # else the sign of a zero would change
            weight += np.float32(self._adapter.config.scale) * (tensors[layer + B] @ tensors[layer + A])
        if layer + MAGNITUDE in tensors:
            weight *= (tensors[layer + MAGNITUDE] / np.linalg.norm(weight, axis=1))[:, None]
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in shapes_of(self._base).items() if name in self._names}
