"""Which Hugging Face tensors the arrays of a Levanter model hold, and how to choose them by regular expression.

A pattern is searched for in names like "model.layers.3.self_attn.q_proj.weight", "model.embed_tokens.weight",
"model.norm.weight" and "lm_head.weight". Levanter stacks the tensors of all layers in one array, along its first axis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax.state_dict import from_torch_compatible_state_dict

from marin_sft.errors import TrainingError
from marin_sft.training.models.architectures import levanter_config
from marin_sft.training.models.levanter_model import state_shapes
from marin_sft.training.models.model_config import Fields
from marin_sft.training.models.model_directory import ModelDirectory, opened

if TYPE_CHECKING:
    from jaxtyping import PyTree

Names = Mapping[str, tuple[str, ...]]
"""By the path of an array in the model: the tensor that it holds, or the tensors of its layers."""

# Names do not depend on widths, so they are taken from a very narrow model.
_NARROW = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "vocab_size": 8,
}


def names_of(model: ModelDirectory | str) -> Names:
    """For the model of a Hugging Face directory."""
    return names_of_config(opened(model).config)


def names_of_config(config: Fields) -> Names:
    """For the model of a `config.json`."""
    config = {**config, **_NARROW}
    build = levanter_config(config).build
    template = eqx.filter_eval_shape(build, hax.Axis("vocab", config["vocab_size"]), key=jax.random.PRNGKey(0))
    shapes = state_shapes(template)
    names = list(shapes)
    here = jax.sharding.Mesh(jax.local_devices()[:1], ("here",))  # each process looks for itself
    with hax.partitioning.set_mesh(here), hax.axis_mapping({}):
        numbers = {name: jnp.full(shape, i, jnp.float32) for i, (name, shape) in enumerate(shapes.items())}
        numbered = from_torch_compatible_state_dict(template, numbers)
    leaves = jax.tree_util.tree_leaves_with_path(numbered, is_leaf=_is_named)
    return {jax.tree_util.keystr(path): _names(names, np.asarray(leaf.array).astype(int)) for path, leaf in leaves}


def _names(names: list[str], leaf: np.ndarray) -> tuple[str, ...]:
    if (leaf == leaf.flat[0]).all():
        return (names[leaf.flat[0]],)
    layers = leaf.reshape(leaf.shape[0], -1)
    assert (layers == layers[:, :1]).all(), "an array with more than one tensor for a layer"
    return tuple(names[i] for i in layers[:, 0])


def map_tensors(
    function: Callable[..., object], names: Names, value: Callable[[str], object], tree: PyTree, *rest: PyTree
) -> PyTree:
    """`function(values, array, *others)` for each array of `tree`, which is a model or has the structure of one, and
    the arrays at the same place in `rest`.

    `values`: `value(name)` of the array's tensor; for the tensors of all layers, an array along the layers.
    """

    def apply(path: jax.tree_util.KeyPath, leaf: hax.NamedArray, *others: PyTree) -> object:
        values = [value(name) for name in names[jax.tree_util.keystr(path)]]
        here = values[0] if len(values) == 1 else hax.named(np.asarray(values), leaf.axes[0].name)
        return function(here, leaf, *others)

    return jax.tree_util.tree_map_with_path(apply, tree, *rest, is_leaf=_is_named)


def _is_named(node: object) -> bool:
    return isinstance(node, hax.NamedArray)


def require_match(names: Names, pattern: str, field: str) -> None:
    """Raise TrainingError unless the pattern in the config field `field` is found in some tensor's name."""
    every = [name for some in names.values() for name in some]
    if not any(re.search(pattern, name) for name in every):
        raise TrainingError(
            f"{field}: {pattern!r} is in none of the model's {len(every)} tensor names; expected a regular "
            f"expression that is found in names like {', '.join(sorted(every)[:3])}"
        )
