"""The config.json, generation_config.json and chat template with which a model is served as it was trained.

Both forms of the rope fields are written. transformers 5 and later read `rope_parameters` (or the older fields).
Without `rope_theta` and `rope_scaling`, readers of the older form would silently use their default theta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from marin_sft.errors import ExportError
from marin_sft.training.models.generation import generation_config as ends_of_answers
from marin_sft.training.models.generation import is_id
from marin_sft.training.models.model_config import Fields, with_dtype
from marin_sft.training.models.stored_tensors import shapes_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Fields of GenerationConfig that belong to the architecture too.
_SHARED_FIELDS = {"bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "output_attentions"}
_SHARED_FIELDS |= {"output_hidden_states", "transformers_version"}
# Models with rope fields per kind of layer in transformers 5, and their theta for sliding layers if config.json has no
# `rope_local_base_freq`. None: that of the other layers. (transformers 5 derives another one from the older fields.)
_LOCAL_THETAS = {"gemma3_text": 10_000.0, "olmo3": None}


def model_config(
    trained: Fields, tensors: Mapping[str, np.ndarray], dtype: str, eos_token_ids: Sequence[int]
) -> Fields:
    """The config.json of an export, from that of the trained model and its `tensors`.

    Raises:
        ExportError: the embedding does not have `vocab_size` rows.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    rows = shapes_of(tensors)[EMBEDDING][0]
    if rows != trained.get("vocab_size"):
        raise ExportError(
            f"{EMBEDDING} has {rows} rows, expected vocab_size = {trained.get('vocab_size')} of config.json: the "
            "weights do not fit this config"
        )
    config = {
        key: value
        for key, value in trained.items()
        if key not in ("rope_parameters", *generation_defaults()) and not is_note(key)
    }
    return {
        **with_dtype(config, dtype),
        **_rope(trained),
        "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[trained["model_type"]]],
        "tie_word_embeddings": HEAD not in tensors,
        # Servers that do not read generation_config.json look here.
        "eos_token_id": eos_token_ids[0] if len(eos_token_ids) == 1 else list(eos_token_ids),
        "pad_token_id": trained.get("pad_token_id") if is_id(trained.get("pad_token_id")) else None,
    }


def is_note(field: str) -> bool:
    """Whether a field of config.json does not describe the model: a reader's notes, such as where it found the file, or
    the place of custom code, which is not exported."""
    return field.startswith("_") or field == "auto_map"


def _rope(config: Fields) -> Fields:
    """`rope_theta`, `rope_scaling` and `rope_parameters`, with the same meaning; see `ModelDirectory.config`."""
    theta = config.get("rope_theta")
    if theta is None:
        return {}
    scaling = config.get("rope_scaling")
    parameters = {**(scaling or {"rope_type": "default"}), "rope_theta": theta}
    if config["model_type"] in _LOCAL_THETAS:
        local = config.get("rope_local_base_freq", _LOCAL_THETAS[config["model_type"]] or theta)
        sliding = {"rope_type": "default", "rope_theta": local}
        parameters = {"full_attention": parameters, "sliding_attention": sliding}
    return {"rope_theta": theta, "rope_scaling": scaling, "rope_parameters": parameters}


def generation_config(
    tokenizer: PreTrainedTokenizerFast,
    trained: Fields,
    stored: Fields | None,
    eos_token_ids: Sequence[int] | None,
) -> Fields:
    """The generation_config.json of an export: that of the base model, `stored`, with the list of ids that end an
    answer. Generation fields that older models keep in config.json (`trained`) move here.

    `eos_token_ids`: None: see `generation.generation_config`.

    Raises:
        ExportError: no id would end an answer, or one is not in the vocabulary.
    """
    defaults = generation_defaults()
    moved = {key: trained[key] for key in defaults if key in trained and trained[key] not in (None, defaults[key])}
    source = {"eos_token_id": trained.get("eos_token_id"), **moved, **(stored or {})}
    # With this field, transformers would derive the file from config.json again, and lose the list.
    source.pop("_from_model_config", None)
    generation = dict(ends_of_answers(tokenizer, source))
    if eos_token_ids is not None:
        generation["eos_token_id"] = list(eos_token_ids)
    ends = generation["eos_token_id"]
    if not ends:
        raise ExportError(
            "no token would end an answer: the base model and the tokenizer name no EOS, and the chat template has no "
            "token that closes an assistant's turn; give hf_generation_eos_token_ids"
        )
    wrong = [i for i in ends if not 0 <= i < trained["vocab_size"]]
    if wrong:
        raise ExportError(f"eos_token_id {wrong[0]}: expected ids from 0 to {trained['vocab_size'] - 1}; got {ends}")
    return generation


def generation_defaults() -> Fields:
    """The generation fields that older models keep in config.json, and their defaults."""
    from transformers import GenerationConfig

    return {key: value for key, value in GenerationConfig().to_dict().items() if key not in _SHARED_FIELDS}


def with_defaults(template: Any, kwargs: Mapping[str, object]) -> Any:
    """A chat template that renders like `template` with `kwargs` as defaults. Arguments given later override them.

    `template`: None, one template, or a dict of named templates; the result is of the same kind.
    """
    if isinstance(template, dict):
        return {name: with_defaults(text, kwargs) for name, text in template.items()}
    if template is None or not kwargs:
        return template
    # transformers renders with trim_blocks: the line break is part of the tag, so the template still begins a line.
    lines = (f"{{% set {name} = {name} if {name} is defined else {value!r} %}}\n" for name, value in kwargs.items())
    return "".join(lines) + template
