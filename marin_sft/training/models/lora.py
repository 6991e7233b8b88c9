"""Low-rank adapters in a model: linear layers that carry A and B, which of a model's arrays train, and their tensors.

The weights of the base model are not trained, have no optimizer state, are in no checkpoint, and are held in the
precision that is computed with.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import haliax as hax
import haliax.nn as hnn
import jax
import jax.numpy as jnp
import numpy as np
from haliax.state_dict import ModuleWithStateDictSerialization, to_torch_compatible_state_dict
from levanter.trainer_state import trainables_only

from marin_sft.errors import TrainingError
from marin_sft.training.lora_config import LoraConfig

RANK = "lora_rank"
_FLAT = "__OUT__"
_RENAMED = {"transformer": "model", "_layers": "layers"}
_CONTAINERS = ("stacked", "blocks")  # of layers; they have no name in Hugging Face's tensors


class LoraLinear(ModuleWithStateDictSerialization):
    """See `LoraConfig`. Dropout is applied where a `key` is given: training gives one, evaluation none."""

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

    def _row_norms(self, dtype: Any) -> hax.NamedArray:
        """Of W + scale * B A, over the inputs, without gradient; as `dtype`, that of the magnitudes, so that those of
        a new adapter, norms of the same W, have a ratio of 1."""
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


def with_adapters(model: Any, config: LoraConfig) -> tuple[Any, list[str]]:
    """The eval_shape `model` with adapters in it, an eval_shape too, and the names of the layers that have one.

    Raises:
        TrainingError: when no layer is to be adapted, a name of `target_modules` fits none, or of layers that are one
            array here only some are.
    """
    names: list[str] = []
    all_names: list[str] = []

    def adapt(path: Any, node: Any) -> Any:
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
                f"LoraConfig.target_modules = {config.target_modules!r} adapts {chosen[0]}, but not {others[0]}: the "
                "layers of this architecture are computed as one, expected all or none of them"
            )
        names.extend(chosen)
        return _adapted(node, config)

    def adapt_all(model: Any) -> Any:
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
    """The axes in front of those of one layer: that of all layers, where they are computed as one."""
    own = {*hax.axis.ensure_tuple(linear.In), *hax.axis.ensure_tuple(linear.Out)}
    return [axis for axis in linear.weight.axes if axis not in own]


def _names(path: Any, linear: hnn.Linear) -> list[str]:
    """Hugging Face's name of the layer at `path` in the model; of layers that are one array, the name of each."""
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
    single: list[Any] = [targets] if targets is None or isinstance(targets, str) else [[name] for name in targets]
    for target in single:
        alone = dataclasses.replace(config, target_modules=target)
        if not any(map(alone.adapts, names)):
            known = sorted({name.rpartition(".")[2] for name in all_names})
            raise TrainingError(
                f"LoraConfig.target_modules = {targets!r}: {target!r} fits no linear layer, expected of "
                f"{', '.join(known)}, or an expression for the whole of a name like {all_names[0]}"
            )


def trainable(model: Any) -> Any:
    """True where `model` has an array of an adapter, else False: a tree like `model`, for Levanter's trainer."""

    def mark(node: Any) -> Any:
        if not isinstance(node, LoraLinear):
            return False
        return dataclasses.replace(_filled(node, True), wrapped=_filled(node.wrapped, False))

    return jax.tree_util.tree_map(mark, model, is_leaf=lambda node: isinstance(node, LoraLinear) or _is_named(node))


def _filled(node: Any, value: bool) -> Any:
    return jax.tree_util.tree_map(lambda _: value, node, is_leaf=_is_named)


def _is_named(node: Any) -> bool:
    return isinstance(node, hax.NamedArray)


def adapter_tensors(model: Any) -> dict[str, np.ndarray]:
    """The adapter's tensors by name as in `peft_directory.Adapter`, on the host. All processes take part."""
    only = trainables_only(model, trainable(model))
    return {name: np.asarray(tensor, np.float32) for name, tensor in to_torch_compatible_state_dict(only).items()}
