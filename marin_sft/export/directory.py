"""A model as a Hugging Face directory, written for transformers 4 and 5 alike, and read back before it counts.

config.json               rope in both forms, one dtype, no fields of generation
*.safetensors             in shards with an index above `max_shard_bytes`
generation_config.json    the base model's sampling, and every id that ends an answer
tokenizer files           with the chat template trained with, as chat_template.jinja and in tokenizer_config.json
README.md                 the model card

The same weights and config give the same bytes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from marin_sft.data.download import PROVENANCE
from marin_sft.errors import ExportError
from marin_sft.export import serving, tokenizer_files
from marin_sft.export.hf_config import DTYPES, HfExport
from marin_sft.export.model_card import model_card
from marin_sft.export.verify import verify, verify_upload
from marin_sft.training.models import hf_directory


class Cast(Mapping[str, np.ndarray]):
    """`tensors` as `dtype`, each when it is asked for, so that two copies of a model are never held.

    Raises:
        ExportError: on asking for a tensor with values that are not finite as `dtype`.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], dtype: str) -> None:
        import ml_dtypes

        self._tensors = tensors
        self._dtype: Any = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)

    def __getitem__(self, name: str) -> np.ndarray:
        with np.errstate(over="ignore"):  # said below
            tensor = self._tensors[name].astype(self._dtype)
        if not np.isfinite(tensor.astype(np.float32)).all():
            raise ExportError(
                f"tensor {name} has values that are not finite as {tensor.dtype}; "
                "export as float32, or look at the metrics of the training step"
            )
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def write_export(
    path: str,
    tensors: Mapping[str, np.ndarray],
    trained_config: Mapping[str, Any],
    export: HfExport,
    metrics: Mapping[str, float],
) -> None:
    """Write the directory at `path` (local or remote), read it back and compare.

    tensors: the trained weights by Hugging Face name. trained_config: the config.json of the model trained.
    metrics: of training, for the card.

    Raises:
        ExportError: what was written is not what was trained, the tokenizer does not fit the model, or nothing would
            end an answer.
        TrainingError: no base model directory.
        ConfigError: no usable tokenizer.
    """
    from marin_sft.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(export.tokenizer or export.base_model, export.chat_template)
    trained_template = tokenizer.chat_template
    tokenizer.chat_template = serving.with_defaults(trained_template, export.chat_template_kwargs)
    with hf_directory.reading(export.base_model) as base:
        base_config = hf_directory.read_config(base)
        stored = hf_directory.read_json(base, "generation_config.json")
        origin = hf_directory.read_json(base, PROVENANCE)
    generation = serving.generation_config(tokenizer, trained_config, stored, export.generation_eos_token_ids)
    dtype = export.dtype or _dtype_of(base_config)
    config = serving.model_config(trained_config, tensors, dtype, generation["eos_token_id"])
    if len(tokenizer) > config["vocab_size"]:
        raise ExportError(
            f"the tokenizer has {len(tokenizer)} tokens, expected at most vocab_size = {config['vocab_size']} of the "
            "trained model: export with the tokenizer that the data was tokenized with"
        )
    cast = Cast(tensors, dtype)
    with hf_directory.writing(path) as local:
        hf_directory.write_json(local, "config.json", config)
        hf_directory.write_json(local, "generation_config.json", generation)
        hf_directory.write_tensors(local, cast, export.max_shard_bytes)
        tokenizer_files.save(local, tokenizer)
        with open(os.path.join(local, "README.md"), "w", encoding="utf-8") as file:
            file.write(model_card(export, origin, dtype, metrics, path))
        tokenizer.chat_template = trained_template
        verify(local, cast, config, generation, tokenizer, export.chat_template_kwargs)
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(local) if entry.is_file()}
    verify_upload(path, sizes)
    for limit in tokenizer_files.limits(tokenizer, config["model_type"]):
        print(f"{path}: {limit}", file=sys.stderr)


def _dtype_of(config: dict[str, Any]) -> str:
    dtype = config.get("torch_dtype") or config.get("dtype") or "float32"
    if dtype not in DTYPES:
        raise ExportError(f"the base model's config.json has dtype {dtype!r}, expected one of {DTYPES}; set dtype")
    return dtype
