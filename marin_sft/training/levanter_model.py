"""Models through Levanter and Haliax: from a Hugging Face directory, at random, back to tensors, and one forward pass.

Levanter's own loaders fetch a default hub checkpoint even when a local one is given, split a path at "@", and ignore
tensors they do not know (the biases of a Llama with `attention_bias`). So the tensors are read by
`hf_directory`, and each of them has to find its place in the model.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax.state_dict import (
    flatten_modules_for_export,
    from_torch_compatible_state_dict,
    to_state_dict,
    to_torch_compatible_state_dict,
)

from marin_sft.errors import TrainingError
from marin_sft.training import hf_directory

# model_type of config.json -> Levanter's config class
ARCHITECTURES = {
    "llama": "levanter.models.llama:LlamaConfig",
    "qwen2": "levanter.models.qwen:QwenConfig",
    "qwen3": "levanter.models.qwen:Qwen3Config",
}
ROPE_TYPES = ("default", "linear", "llama3")


def levanter_config(config: Mapping[str, Any], gradient_checkpointing: bool = False) -> Any:
    """Levanter's model config for the fields of a `config.json` (see `hf_directory.read_config`).

    Raises:
        TrainingError: for an architecture that we do not train as transformers would run it.
    """
    from transformers import AutoConfig

    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise TrainingError(f"config.json: model_type {model_type!r}: expected one of {', '.join(ARCHITECTURES)}")
    rope = config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ROPE_TYPES:
        raise TrainingError(f"config.json: rope_scaling of type {rope_type!r}: expected one of {', '.join(ROPE_TYPES)}")
    if config.get("use_sliding_window"):
        raise TrainingError("config.json: use_sliding_window is true: sliding windows are not supported; set it false")

    module, _, name = ARCHITECTURES[model_type].partition(":")
    hf_config = AutoConfig.for_model(**config)
    levanter = getattr(importlib.import_module(module), name).from_hf_config(hf_config)
    return dataclasses.replace(
        levanter,
        head_dim=getattr(hf_config, "head_dim", None),
        gradient_checkpointing=gradient_checkpointing,
        # Flash attention pays on accelerators; on a CPU the plain matrix product is faster.
        attn_backend=_vanilla_attention() if jax.default_backend() == "cpu" else None,
    )


def random_model(config: Mapping[str, Any], seed: int) -> Any:
    """A model of that `config.json` with Levanter's initial weights, in float32."""
    levanter = levanter_config(config)
    build = hax.named_jit(functools.partial(levanter.build, hax.Axis("vocab", config["vocab_size"])))
    return build(key=jax.random.PRNGKey(seed))


def load_model(
    path: str, *, dtype: Any = jnp.float32, axis_mapping: Any = None, gradient_checkpointing: bool = False
) -> Any:
    """The model of a Hugging Face directory, its floating-point weights as `dtype`, laid out by `axis_mapping`.

    Raises:
        TrainingError: when a tensor is missing, left over, or of another shape than config.json says.
    """
    with hf_directory.reading(path) as local:
        config = hf_directory.read_config(local)
        tensors = hf_directory.read_tensors(local)
    levanter = levanter_config(config, gradient_checkpointing)
    template = eqx.filter_eval_shape(levanter.build, hax.Axis("vocab", config["vocab_size"]), key=jax.random.PRNGKey(0))
    if levanter.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)  # some writers keep a copy of the tied matrix
    _check_tensors(path, tensors, state_shapes(template))
    cast = {name: np.asarray(tensor, dtype) for name, tensor in tensors.items()}
    place = hax.named_jit(from_torch_compatible_state_dict, out_axis_resources=axis_mapping)
    return place(template, cast)


def _check_tensors(path: str, tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    got = {name: tensor.shape for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    wrong = {
        "missing": sorted(expected.keys() - got.keys()),
        "not part of the model": sorted(got.keys() - expected.keys()),
        "of another shape": sorted(name for name in expected.keys() & got.keys() if expected[name] != got[name]),
    }
    found = [f"{len(names)} tensors {what}, e.g. {names[0]}" for what, names in wrong.items() if names]
    if found:
        raise TrainingError(
            f"{path}: {'; '.join(found)}: the weights do not belong to the architecture that config.json describes"
        )


def state_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Shape by Hugging Face tensor name, for a model or its eval_shape."""
    shapes = eqx.filter_eval_shape(lambda m: to_state_dict(flatten_modules_for_export(m)), model)
    return {name: tuple(leaf.shape) for name, leaf in shapes.items()}


def model_tensors(model: Any) -> dict[str, np.ndarray]:
    """The weights by Hugging Face tensor name, on the host."""
    return {name: np.asarray(tensor) for name, tensor in to_torch_compatible_state_dict(model).items()}


@eqx.filter_jit
def logits(model: Any, tokens: jax.typing.ArrayLike) -> jax.Array:
    """float32 [batch, position, vocab] for int32 tokens [batch, position], causal, without padding."""
    from levanter.layers.attention import AttentionMask

    out = model(hax.named(jnp.asarray(tokens), ("batch", "position")), attn_mask=AttentionMask.causal())
    return out.rearrange(("batch", "position", "vocab")).array.astype(jnp.float32)


def _vanilla_attention() -> Any:
    from levanter.layers.attention import AttentionBackend

    return AttentionBackend.VANILLA
