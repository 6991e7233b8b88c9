"""Low-rank adapters in a model: linear layers with A and B, which arrays are trained, and the adapter's tensors.

The weights of the base model are not trained. They have no optimizer state, are in no checkpoint, and are held in the
compute precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import equinox as eqx
import haliax as hax
import haliax.nn as hnn
import jax
import jax.numpy as jnp
import numpy as np
from haliax.state_dict import ModuleWithStateDictSerialization, flatten_modules_for_export, to_state_dict
from levanter.trainer_state import trainables_only

from marin_sft.errors import TrainingError
from marin_sft.training import processes
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models.token_rows import EmbeddingRows

if TYPE_CHECKING:
    from jaxtyping import PyTree
    from levanter.models.lm_model import LmHeadModel

RANK = "lora_rank"
_FLAT = "__OUT__"
_RENAMED = {"transformer": "model", "_layers": "layers"}
_CONTAINERS = ("stacked", "blocks")  # of layers; Hugging Face's tensor names leave them out


class LoraLinear(ModuleWithStateDictSerialization):
    """See `LoraConfig`. Dropout needs a `key`: training passes one, evaluation does not."""

    wrapped: hnn.Linear
    lora_A: hnn.Linear
    lora_B: hnn.Linear
    lora_magnitude_vector: hax.NamedArray | None
    scale: float = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    def __call__(self, x: hax.NamedArray, *, key: jax.Array | None = None) -> hax.NamedArray:
        dropped = x if key is None else hnn.dropout(x, self.dropout, key=key, inference=False)
        # Multiplied in float32: a scale like 16 / 3 has no exact bfloat16.
        low = self.lora_B(self.lora_A(dropped)).astype(jnp.float32) * self.scale
        if self.lora_magnitude_vector is None:
            return self.wrapped(x) + low.astype(x.dtype)
        plain = dataclasses.replace(self.wrapped, bias=None)(x)
        magnitude = self.lora_magnitude_vector
        out = (plain + low.astype(x.dtype)) * (magnitude / self._row_norms(magnitude.dtype))
        return out if self.wrapped.bias is None else out + self.wrapped.bias

    def _row_norms(self, dtype: jax.typing.DTypeLike) -> hax.NamedArray:
        """Norms of the rows of W + scale * B A, without gradient.

        `dtype` is that of the magnitudes: a new adapter's magnitudes are norms of the same W, and their ratio is 1.
        """
        weight, a, b = (linear.weight.astype(jnp.float32) for linear in (self.wrapped, self.lora_A, self.lora_B))
        whole = jax.lax.stop_gradient(weight + self.scale * hax.dot(b, a, axis=RANK))
        return hax.sqrt(hax.sum(whole * whole, axis=self.wrapped.In)).astype(dtype)

    def _state_dict_key_map(self) -> dict[str, str | None]:
        return {"wrapped": None}

    def flatten_for_export(self) -> LoraLinear:
        out = self.wrapped.Out
        if self.lora_magnitude_vector is None or isinstance(out, hax.Axis):
            return self
        return dataclasses.replace(self, lora_magnitude_vector=self.lora_magnitude_vector.flatten_axes(out, _FLAT))

    def unflatten_from_export(self, template: LoraLinear) -> LoraLinear:
        out = template.wrapped.Out
        if self.lora_magnitude_vector is None or isinstance(out, hax.Axis):
            return self
        return dataclasses.replace(self, lora_magnitude_vector=self.lora_magnitude_vector.unflatten_axis(_FLAT, out))


def with_adapters(model: LmHeadModel, config: LoraConfig) -> tuple[LmHeadModel, list[str]]:
    """The eval_shape `model` with adapters, still an eval_shape, and the names of the adapted layers.

    Raises:
        TrainingError: no layer would be adapted, a name in `target_modules` matches none, or only some of the layers
            that are computed as one array would be adapted.
    """
    names: list[str] = []
    all_names: list[str] = []

    def adapt(path: jax.tree_util.KeyPath, node: object) -> object:
        if not isinstance(node, hnn.Linear):
            return node
        here = _names(path, node)
        chosen = [name for name in here if config.adapts(name)]
        all_names.extend(here)
        if not chosen:
            return node
        if len(chosen) < len(here):
            others = sorted(set(here) - set(chosen))
            raise TrainingError(
                f"LoraConfig.target_modules = {config.target_modules!r} adapts {chosen[0]}, but not {others[0]}: "
                "expected all layers or none, because this architecture computes its layers as one"
            )
        names.extend(chosen)
        return _adapted(node, config)

    def adapt_all(model: LmHeadModel) -> LmHeadModel:
        return jax.tree_util.tree_map_with_path(adapt, model, is_leaf=lambda node: isinstance(node, hnn.Linear))

    adapted = eqx.filter_eval_shape(adapt_all, model)
    _check_targets(config, names, all_names)
    return adapted, names


def _adapted(linear: hnn.Linear, config: LoraConfig) -> LoraLinear:
    rank, layers = hax.Axis(RANK, config.r), _layer_axes(linear)
    into, out = hax.axis.ensure_tuple(linear.In), hax.axis.ensure_tuple(linear.Out)
    return LoraLinear(
        wrapped=linear,
        lora_A=hnn.Linear(hax.zeros((*layers, rank, *into)), None, In=linear.In, Out=rank),
        lora_B=hnn.Linear(hax.zeros((*layers, *out, rank)), None, In=rank, Out=linear.Out),
        lora_magnitude_vector=hax.zeros((*layers, *out)) if config.use_dora else None,
        scale=config.scale,
        dropout=config.dropout,
    )


def _layer_axes(linear: hnn.Linear) -> list[hax.Axis]:
    """The leading axis over all layers, if they are computed as one."""
    own = {*hax.axis.ensure_tuple(linear.In), *hax.axis.ensure_tuple(linear.Out)}
    return [axis for axis in linear.weight.axes if axis not in own]


def _names(path: jax.tree_util.KeyPath, linear: hnn.Linear) -> list[str]:
    """Hugging Face's name of the layer at `path` in the model; for layers that are one array, the name of each."""
    names = [""]
    for key in path:
        part = str(getattr(key, "name", getattr(key, "idx", "")))
        if part == "stacked":
            (layers,) = _layer_axes(linear)
            names = [f"{name}.{i}" for name in names for i in range(layers.size)]
        elif part not in _CONTAINERS:
            names = [f"{name}.{_RENAMED.get(part, part)}" for name in names]
    return [name.removeprefix(".") for name in names]


def _check_targets(config: LoraConfig, names: list[str], all_names: list[str]) -> None:
    targets = config.target_modules
    single: list[Sequence[str] | str | None] = (
        [targets] if targets is None or isinstance(targets, str) else [[name] for name in targets]
    )
    for target in single:
        alone = dataclasses.replace(config, target_modules=target)
        if not any(map(alone.adapts, names)):
            known = sorted({name.rpartition(".")[2] for name in all_names})
            raise TrainingError(
                f"LoraConfig.target_modules = {targets!r}: {target!r} matches no linear layer; expected some of "
                f"{', '.join(known)}, or an expression that matches a whole name like {all_names[0]}"
            )


def trainable(model: LmHeadModel) -> PyTree:
    """A tree like `model`, for Levanter's trainer: True for the arrays of adapters, else False."""

    def mark(node: object) -> PyTree:
        if not isinstance(node, adapters):
            return False
        return dataclasses.replace(_filled(node, True), wrapped=_filled(node.wrapped, False))

    adapters = (LoraLinear, EmbeddingRows)
    return jax.tree_util.tree_map(mark, model, is_leaf=lambda node: isinstance(node, adapters) or _is_named(node))


def _filled(node: PyTree, value: bool) -> PyTree:
    return jax.tree_util.tree_map(lambda _: value, node, is_leaf=_is_named)


def _is_named(node: object) -> bool:
    return isinstance(node, hax.NamedArray)


def adapter_tensors(model: LmHeadModel) -> dict[str, np.ndarray]:
    """The adapter's tensors, named as in `peft_directory.Adapter`, on the host. All processes must call it."""
    only = flatten_modules_for_export(trainables_only(model, trainable(model)))
    tensors = to_state_dict(jax.tree_util.tree_map(processes.on_host, only))
    return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
