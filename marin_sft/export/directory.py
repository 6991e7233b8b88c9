"""A model as a Hugging Face directory, for both transformers 4 and 5. It is read back before it counts.

config.json               rope in both forms, one dtype, no generation fields
*.safetensors             shards with an index if larger than `max_shard_bytes`
generation_config.json    the base model's sampling, and every id that ends an answer
tokenizer files           with the chat template of training, in chat_template.jinja and in tokenizer_config.json
README.md                 the model card
model-*.gguf, Modelfile   if `formats` asks for them: see `marin_sft.export.gguf.file`

The same weights and config always give the same bytes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from marin_sft.data.download import PROVENANCE
from marin_sft.data.tokenizer import load_tokenizer, vocabulary_hash, vocabulary_sample, vocabulary_size
from marin_sft.errors import ExportError, TrainingError
from marin_sft.export import serving, tokenizer_files
from marin_sft.export.hf_config import DTYPES, HfExport
from marin_sft.export.model_card import model_card
from marin_sft.export.verify import verify_files, verify_names, verify_upload, verify_weights
from marin_sft.training.models.model_check import check_tokenizer
from marin_sft.training.models.model_config import Fields, with_dtype
from marin_sft.training.models.model_directory import (
    SENTENCEPIECE,
    ModelDirectory,
    write_json,
    write_tensors,
    writing,
)
from marin_sft.training.models.stored_tensors import LazyTensors, LocalFile, StoredTensors, shapes_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Cast(LazyTensors):
    """`tensors` as `dtype`. Each is converted when it is read, so two copies of a model are never in memory.

    Raises:
        ExportError: when a tensor is read whose values are not finite as `dtype`.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], dtype: str) -> None:
        import ml_dtypes

        self._tensors = tensors
        self._dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)

    def __getitem__(self, name: str) -> np.ndarray:
        with np.errstate(over="ignore"):  # reported below
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

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return shapes_of(self._tensors)


@dataclass(frozen=True)
class _Files:
    """The files of an export except its weights.

    meant: fields of a config.json that describe the trained model.
    tokenizer: with the chat template of training, which was rendered with `kwargs`.
    template: the exported chat template, which renders the same without them.
    sentencepiece: the tokenizer's tokenizer.model, if it has one.
    """

    config: Fields
    meant: Fields
    generation: Fields
    tokenizer: PreTrainedTokenizerFast
    template: str | dict[str, str] | None
    kwargs: Mapping[str, object]
    sentencepiece: bytes | None
    origin: Fields | None

    @property
    def dtype(self) -> str:
        return str(self.config["torch_dtype"])

    def write(self, local: str) -> None:
        write_json(local, "config.json", self.config)
        write_json(local, "generation_config.json", self.generation)
        trained_with, self.tokenizer.chat_template = self.tokenizer.chat_template, self.template
        tokenizer_files.save(local, self.tokenizer, self.sentencepiece)
        self.tokenizer.chat_template = trained_with

    def verify(self, local: str) -> None:
        verify_files(local, self.meant, self.generation, self.tokenizer, self.kwargs)


def _files(export: HfExport, trained: Fields, base: ModelDirectory, tensors: Mapping[str, np.ndarray]) -> _Files:
    """`trained`: the config.json of the trained model. `tensors`: only their names and the rows of the embedding count.

    Raises as `write_export` does.
    """
    other = None if export.tokenizer == base.path else export.tokenizer
    template = export.chat_template
    tokenizer = base.tokenizer(template) if other is None else load_tokenizer(other, template)
    stored = base.json("generation_config.json")
    generation = serving.generation_config(tokenizer, trained, stored, export.generation_eos_token_ids)
    config = serving.model_config(trained, tensors, export.dtype or _dtype_of(base), generation["eos_token_id"])
    changed = ("torch_dtype", "architectures", "tie_word_embeddings", "eos_token_id", "pad_token_id")
    if other is not None:
        try:
            sizes = vocabulary_size(tokenizer), vocabulary_hash(tokenizer), vocabulary_sample(tokenizer)
            check_tokenizer(*sizes, base, config["vocab_size"])
        except TrainingError as error:
            raise ExportError(str(error)) from error
    return _Files(
        config=config,
        meant={**with_dtype(trained, ""), **{name: config[name] for name in changed}},
        generation=generation,
        tokenizer=tokenizer,
        template=serving.with_defaults(tokenizer.chat_template, export.chat_template_kwargs),
        kwargs=export.chat_template_kwargs,
        sentencepiece=(base if other is None else ModelDirectory(other)).file(SENTENCEPIECE),
        origin=base.json(PROVENANCE),
    )


def check_export(export: HfExport, trained_config: Fields, base: ModelDirectory) -> None:
    """Raise what `write_export` would raise for a model of `trained_config`, before training: all but errors in the
    weights."""
    embedding = np.broadcast_to(np.float32(0), (trained_config["vocab_size"], 1))
    files = _files(export, trained_config, base, {serving.EMBEDDING: embedding})
    with tempfile.TemporaryDirectory() as local:
        files.write(local)
        files.verify(local)
        if "gguf" in export.formats:
            from marin_sft.export.gguf.file import gguf_file

            gguf_file(local, export.gguf_type)


def write_export(
    path: str,
    tensors: Mapping[str, np.ndarray],
    trained_config: Fields,
    export: HfExport,
    base: ModelDirectory,
    metrics: Mapping[str, float],
    list_files: Callable[[str], None] = lambda local: None,
) -> None:
    """Write the directory at `path` (local or remote), read it back and compare.

    tensors: the trained weights by Hugging Face name; each is read once.
    trained_config: the config.json of the trained model.
    base: the model at `export.base_model`.
    metrics: of training, for the card.
    list_files: called with a local directory that has the files.

    Raises:
        ExportError: what was written is not what was trained, the tokenizer does not fit the model, nothing would end
            an answer, or llama.cpp would compute something else.
        TrainingError: there is no base model directory.
        ConfigError: there is no usable tokenizer.
    """
    files = _files(export, trained_config, base, tensors)
    cast = Cast(tensors, files.dtype)

    def verify_shard(file: str, shard: Mapping[str, np.ndarray]) -> None:
        verify_weights(local, StoredTensors([LocalFile(file)]), shard)

    with writing(path) as local:
        files.write(local)
        write_tensors(local, cast, export.max_shard_bytes, verify_shard)
        with open(os.path.join(local, "README.md"), "w", encoding="utf-8") as file:
            file.write(model_card(export, files.origin, files.dtype, metrics, path))
        files.verify(local)
        verify_names(local, ModelDirectory(local).tensors(), cast)
        limits = tokenizer_files.limits(files.tokenizer, files.config["model_type"])
        if "gguf" in export.formats:
            from marin_sft.export.gguf.file import license_of, write_gguf

            limits += write_gguf(
                local, export.gguf_type, title=export.card.title, origin=files.origin, license=license_of(base)
            )
        sizes = _sizes(local)
        list_files(local)
    verify_upload(path, sizes)
    for limit in limits:
        print(f"{path}: {limit}", file=sys.stderr)


def _sizes(local: str) -> dict[str, int]:
    """Bytes of each file, by its path in the directory."""
    found = (Path(folder, name) for folder, _, names in os.walk(local) for name in names)
    return {file.relative_to(local).as_posix(): file.stat().st_size for file in found}


def _dtype_of(base: ModelDirectory) -> str:
    """What config.json says, which servers compute with; else the type of the embedding."""
    dtype = base.config.get("torch_dtype") or base.config.get("dtype")
    if dtype is None:
        ((_, row),) = base.tensors().read([serving.EMBEDDING], lambda _: slice(0, 1))
        dtype = row.dtype.name
    if dtype not in DTYPES:
        raise ExportError(f"the base model has dtype {dtype!r}, expected one of {DTYPES}; set dtype")
    return str(dtype)
