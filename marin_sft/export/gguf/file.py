"""The GGUF file and the Ollama Modelfile of an exported Hugging Face directory.

{directory}/model-{type}.gguf    weights, config, tokenizer with its chat template: all that llama.cpp reads
{directory}/Modelfile            what Ollama does not read there: `ollama create NAME -f Modelfile`

Tensors are read from the safetensors files and written one at a time. The file is read back and compared.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gguf
import numpy as np
import yaml

from marin_sft.errors import ExportError
from marin_sft.export.gguf import metadata
from marin_sft.export.gguf.architectures import architecture_of, check_config
from marin_sft.export.gguf.modelfile import modelfile
from marin_sft.export.gguf.special_tokens import SpecialTokens, special_tokens
from marin_sft.export.gguf.tensors import GgufTensors
from marin_sft.export.gguf.vocabulary import Vocabulary, vocabulary_of
from marin_sft.export.serving import generation_config
from marin_sft.training.models.model_config import Fields
from marin_sft.training.models.model_directory import ModelDirectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MODELFILE = "Modelfile"
_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}


@dataclass(frozen=True)
class GgufFile:
    """Everything in a GGUF file but the weights.

    config: see `metadata.with_defaults`. generation: the fields of generation_config.json.
    """

    config: Fields
    generation: Fields
    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary
    special: SpecialTokens
    type: str

    @property
    def name(self) -> str:
        return f"model-{self.type}.gguf"

    @property
    def limits(self) -> list[str]:
        """What llama.cpp does otherwise than transformers, one sentence each."""
        limits = [*self.vocabulary.limits, *self.special.limits]
        length, longest = metadata.context_length(self.config), self.config["max_position_embeddings"]
        if length < longest:
            limits.append(
                f"llama.cpp knows no sliding window in this model, so it takes {length} tokens, not {longest}"
            )
        return limits


def gguf_file(directory: str, type: str | None) -> GgufFile:
    """For the export in the local `directory`. Only its small files are read.

    type: see `HfExport.gguf_type`.

    Raises:
        ExportError: llama.cpp would compute something else, or give other ids for the same text.
    """
    exported = ModelDirectory(directory)
    check_config(exported.config)
    config = metadata.with_defaults(exported.config)
    check_config(config)
    tokenizer = exported.tokenizer()
    generation = _generation(exported, tokenizer)
    return GgufFile(
        config=config,
        generation=generation,
        tokenizer=tokenizer,
        vocabulary=vocabulary_of(tokenizer, config["vocab_size"]),
        special=special_tokens(tokenizer, exported.config, generation),
        type=type or _TYPES[str(exported.config.get("torch_dtype") or exported.config.get("dtype") or "float32")],
    )


def _generation(exported: ModelDirectory, tokenizer: PreTrainedTokenizerFast) -> Fields:
    """An export lists all tokens that end an answer. Other models may not."""
    stored = exported.json("generation_config.json") or {}
    listed = stored.get("eos_token_id")
    return stored if isinstance(listed, list) else generation_config(tokenizer, exported.config, stored, None)


def write_gguf(
    directory: str,
    type: str | None,
    *,
    title: str,
    origin: Fields | None = None,
    license: str | None = None,
    to: str | None = None,
) -> list[str]:
    """Write both files for the local `directory` of an export, and read the first back.

    title, origin, license: see `metadata.add_origin`. to: the local path of the GGUF file; the Modelfile is next to it.
    None: `GgufFile.name` in the directory.

    Returns:
        What llama.cpp or Ollama do otherwise than transformers, one sentence each.

    Raises:
        ExportError: as `gguf_file`; what was read back is not what was written.
    """
    file = gguf_file(directory, type)
    architecture = architecture_of(file.config)
    tensors = GgufTensors(ModelDirectory(directory).tensors(), architecture, file.config, file.type)
    writer = gguf.GGUFWriter(None, architecture.name)
    metadata.add_origin(writer, title, origin, license)
    metadata.add_model(writer, architecture, file.config)
    metadata.add_sampling(writer, file.generation)
    writer.add_file_type(_FILE_TYPES[file.type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, file)
    path = to or os.path.join(directory, file.name)
    fields = {name: value.value for name, value in writer.kv_data[0].items()}
    _verify(path, fields, _write(writer, path, tensors))
    length = metadata.context_length(file.config)
    text, limits = modelfile(os.path.basename(path), file.tokenizer, file.generation, file.special, length)
    if text is not None:
        with open(os.path.join(os.path.dirname(path), MODELFILE), "w", encoding="utf-8") as stream:
            stream.write(text)
    return [*file.limits, *limits]


def license_of(base: ModelDirectory) -> str | None:
    """As its model card says on the Hugging Face Hub. None: it does not."""
    card = base.text("README.md") or ""
    if not card.startswith("---"):
        return None
    try:
        fields = yaml.safe_load(card.split("---")[1])
    except yaml.YAMLError:
        return None
    license = fields.get("license") if isinstance(fields, dict) else None
    return license if isinstance(license, str) else None


def _add_tokenizer(writer: gguf.GGUFWriter, file: GgufFile) -> None:
    vocabulary, template = file.vocabulary, file.tokenizer.chat_template
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == "gpt2":
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.space)
    file.special.add_to(writer)
    if isinstance(template, dict):  # all are kept, as llama.cpp names them
        writer.add_chat_template([{"name": name, "template": text} for name, text in template.items()])
    elif template is not None:
        writer.add_chat_template(template)


def _write(writer: gguf.GGUFWriter, path: str, tensors: GgufTensors) -> dict[str, int]:
    """The checksum of each tensor."""
    for tensor in tensors.all:
        dtype = np.dtype(np.uint8 if tensor.stored_shape != tensor.shape else np.float32)
        writer.add_tensor_info(tensor.name, tensor.stored_shape, dtype, tensor.nbytes, raw_dtype=tensor.type)
    writer.write_header_to_file(path)  # type: ignore[arg-type]
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    sums = {}
    for tensor in tensors.all:
        values = np.ascontiguousarray(tensors.computed(tensor))
        writer.write_tensor_data(values)
        sums[tensor.name] = _sum(values)
    writer.close()
    return sums


def _sum(values: np.ndarray) -> int:
    return zlib.crc32(values.reshape(-1).view(np.uint8).data)


def _verify(path: str, fields: Mapping[str, object], sums: Mapping[str, int]) -> None:
    """Raise ExportError unless the file at `path` has these fields, and tensors with these checksums."""
    read = gguf.GGUFReader(path)
    for name, expected in fields.items():
        field = read.get_field(name)
        if field is None or not _same(field.contents(), expected):
            raise ExportError(f"{path}: {name} read back is not what was written; the disk may be full or faulty")
    found = {tensor.name: tensor.data for tensor in read.tensors}
    if found.keys() != sums.keys():
        raise ExportError(f"{path}: tensors {sorted(found.keys() ^ sums.keys())[:3]} are missing, or not to be there")
    for name, expected_sum in sums.items():
        if _sum(found[name]) != expected_sum:
            raise ExportError(
                f"{path}: tensor {name} read back is not the exported one; the disk may be full or faulty"
            )


def _same(got: object, expected: object) -> bool:
    """Numbers are stored as float32."""
    if isinstance(expected, float):
        return got == float(np.float32(expected))
    if isinstance(expected, list | tuple) and expected and isinstance(expected[0], float):
        return np.array_equal(np.asarray(got, np.float32), np.asarray(expected, np.float32))
    return list(got) == list(expected) if isinstance(expected, list | tuple) else got == expected  # type: ignore[call-overload]
