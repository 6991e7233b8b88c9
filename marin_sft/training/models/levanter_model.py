"""Models in Levanter and Haliax: loaded from a Hugging Face directory, made at random, turned back into tensors, run.

Levanter's own loaders fetch a default hub checkpoint even when a local one is given, split a path at "@", and ignore
tensors they do not know (the biases of a Llama with `attention_bias`). So `ModelDirectory` reads the tensors, and each
tensor must have its place in the model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax.partitioning import ResourceMapping
from haliax.state_dict import (
    flatten_modules_for_export,
    from_torch_compatible_state_dict,
    to_state_dict,
    to_torch_compatible_state_dict,
)
from levanter.models.lm_model import LmHeadModel

from marin_sft.errors import TrainingError
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.adapted_weights import starting_rows, starting_tensors
from marin_sft.training.models.architectures import levanter_config
from marin_sft.training.models.lora import with_adapters
from marin_sft.training.models.model_check import check_model
from marin_sft.training.models.model_config import Fields
from marin_sft.training.models.model_directory import ModelDirectory, opened
from marin_sft.training.models.peft_directory import resolved
from marin_sft.training.models.recomputation import with_recomputed_blocks
from marin_sft.training.models.reinit import MATRICES, token_ids, with_new_rows
from marin_sft.training.models.row_placement import RowPlacement
from marin_sft.training.models.stored_tensors import COMPUTED, StoredTensors
from marin_sft.training.models.token_rows import with_token_rows
from marin_sft.training.models.trained_tokens import trained_ids


def random_model(config: Fields, seed: int) -> LmHeadModel:
    """A model for the fields of a `config.json`, with Levanter's initial weights, in float32."""
    levanter = levanter_config(config)
    build = hax.named_jit(functools.partial(levanter.build, hax.Axis("vocab", config["vocab_size"])))
    return build(key=jax.random.PRNGKey(seed))


def abstract_model(
    config: Fields, gradient_checkpointing: bool | str = False, attention_backend: str | None = None
) -> LmHeadModel:
    """The eval_shape of a model for the fields of a `config.json`, to be computed on the mesh of the context.

    Raises:
        TrainingError: a field is missing, or has a value that no model can have.
    """
    sizes = {name: config.get(name) for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    for name, size in sizes.items():
        if type(size) is not int and (size is not None or name == "vocab_size"):  # the others have defaults
            raise TrainingError(f"config.json: {name} = {size!r}: expected a whole number")
    mesh = jax.sharding.get_mesh()
    splits_sequence = not mesh.empty and mesh.shape.get("context", 1) > 1
    levanter = levanter_config(config, gradient_checkpointing, attention_backend, splits_sequence)
    vocabulary = hax.Axis("vocab", config["vocab_size"])
    model = eqx.filter_eval_shape(lambda: levanter.build(vocabulary, key=jax.random.PRNGKey(0)))
    return with_recomputed_blocks(model)


def load_model(
    model: ModelDirectory | str,
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
    axis_mapping: ResourceMapping | None = None,
    gradient_checkpointing: bool | str = False,
    attention_backend: str | None = None,
    reinit_tokens: Sequence[str] = (),
    expected: LlamaConfig | None = None,
    lora: LoraConfig | None = None,
    seed: int = 0,
) -> LmHeadModel:
    """The model of a Hugging Face directory, its floating-point weights as `dtype`, laid out by `axis_mapping` on the
    mesh of the context. Each process reads about as much of the files as its devices hold.

    `reinit_tokens`: tokens that get new embeddings, drawn with `seed`, see `reinit`.
    `lora`: adds an adapter in float32, from its `adapter_path` or a new one drawn with `seed`.

    Raises:
        TrainingError: a tensor is missing, left over, or has another shape than config.json says; config.json differs
            from `expected`; or `lora` does not fit the model.
    """
    model = opened(model)
    config = model.config
    if expected is not None:
        check_model(expected, config, model.path)
    mesh, template = jax.sharding.get_mesh(), abstract_model(config, gradient_checkpointing, attention_backend)
    shapes, tensors = state_shapes(template), model.tensors()
    _check_tensors(model.path, tensors, shapes, template.config.tie_word_embeddings)
    new_rows = token_ids(model, reinit_tokens)
    own_rows = trained_ids(lora, model, new_rows) if lora is not None else ()
    needs_whole = MATRICES if new_rows or own_rows else ()  # new rows depend on all others
    placement = RowPlacement(None if axis_mapping is None or mesh.empty else mesh)

    def rows(name: str) -> slice | None:
        return None if name in needs_whole else placement.rows(shapes[name])

    parts: dict[str, np.ndarray] = {}
    matrices: dict[str, np.ndarray] = {}
    for name, tensor in tensors.read(shapes, rows):
        if name in needs_whole:
            matrices[name] = with_new_rows({name: tensor}, new_rows, seed)[name] if new_rows else tensor
            tensor = matrices[name][placement.rows(shapes[name]) or slice(None)]
        parts[name] = np.asarray(tensor, dtype)
    if lora is not None:
        lora = resolved(lora)
        template, layers = with_adapters(template, lora)
        # DoRA needs the norms of the weights as `dtype`. Norms are of rows, so those of parts are parts of them.
        parts.update(starting_tensors(lora, layers, shapes, parts, placement.rows, seed))
        template = with_token_rows(template, own_rows)
        shapes = state_shapes(template)
        if own_rows:
            starting = starting_rows(lora, own_rows, matrices, new_rows)
            parts.update({name: own[placement.rows(own.shape) or slice(None)] for name, own in starting.items()})
    placed = {name: placement.place(shapes[name], parts.pop(name)) for name in sorted(parts)}
    place = hax.named_jit(from_torch_compatible_state_dict, out_axis_resources=axis_mapping)
    return place(template, placed)


def _check_tensors(path: str, tensors: StoredTensors, expected: Mapping[str, tuple[int, ...]], tied: bool) -> None:
    got = {name: shape for name, shape in tensors.shapes().items() if not name.endswith(COMPUTED)}
    if tied:
        got.pop("lm_head.weight", None)  # some writers keep a copy of the tied matrix
    wrong = {
        "missing": sorted(expected.keys() - got.keys()),
        "not part of the model": sorted(got.keys() - expected.keys()),
        "with another shape": sorted(name for name in expected.keys() & got.keys() if expected[name] != got[name]),
    }
    found = [f"{len(names)} tensors {what}, e.g. {names[0]}" for what, names in wrong.items() if names]
    if found:
        raise TrainingError(
            f"{path}: {'; '.join(found)}: the weights do not fit the architecture that config.json describes"
        )


def state_shapes(model: LmHeadModel) -> dict[str, tuple[int, ...]]:
    """Shapes by Hugging Face tensor name, for a model or its eval_shape."""
    shapes = eqx.filter_eval_shape(lambda m: to_state_dict(flatten_modules_for_export(m)), model)
    return {name: tuple(leaf.shape) for name, leaf in shapes.items()}


def model_tensors(model: LmHeadModel) -> dict[str, np.ndarray]:
    """The weights by Hugging Face tensor name, on the host, in float32."""
    return {name: np.asarray(tensor, np.float32) for name, tensor in to_torch_compatible_state_dict(model).items()}


@eqx.filter_jit
def logits(model: LmHeadModel, tokens: jax.typing.ArrayLike) -> jax.Array:
    """float32 [batch, position, vocab] for int32 tokens [batch, position], causal, without padding."""
    from levanter.layers.attention import AttentionMask

    out = model(hax.named(jnp.asarray(tokens), ("batch", "position")), attn_mask=AttentionMask.causal())
    out, cap = out.rearrange(("batch", "position", "vocab")).array.astype(jnp.float32), logit_soft_cap(model)
    return out if cap is None else cap * jnp.tanh(out / cap)


def logit_soft_cap(model: LmHeadModel) -> float | None:
    """c, if the model turns logits x into c * tanh(x / c) (Gemma 2). None: it does not."""
    return getattr(model.config, "final_logit_softcapping", None)
