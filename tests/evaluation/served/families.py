"""Exports of a small random model of each family, with the published form of its tokenizer and config.

Heads have 32 dimensions, the fewest that vLLM computes on CPUs. The row of the token that ends a turn is stretched, so
that most answers end by themselves.
"""

import dataclasses
from pathlib import Path

import numpy as np

from marin_sft.export.directory import write_export
from marin_sft.export.gguf.architectures import ARCHITECTURES
from marin_sft.export.hf_config import HfExport
from marin_sft.export.serving import EMBEDDING, HEAD
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import levanter_model
from marin_sft.training.models.generation import end_of_turn
from marin_sft.training.models.lora import adapter_tensors
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.peft_directory import Adapter, write_adapter
from tests.published.releases import RELEASES, Release, write

STRETCHED = 3.0
QUIET = 0.05  # Gemma multiplies embeddings, which would drown what its few layers add: answers would repeat one token
SIZES = {"hidden_size": 128, "intermediate_size": 96, "num_attention_heads": 4}
OURS = "qwen 3, a tokenizer of ours"
FAMILIES = [
    OURS,
    "llama 2 chat",
    "llama 3.1 instruct",
    "mistral 0.1",
    "qwen 2.5 instruct",
    "qwen 3",
    "gemma 1",
    "gemma 2 it",
    "gemma 3 it",
    "olmo 2",
    "olmo 3",
    "qwen 3, with the yarn of its card",
]


def exported(folder: Path, name: str) -> Path:
    release = _release(name)
    base = ModelDirectory(write(folder / "base", release))
    tensors = {key: np.asarray(tensor, np.float32) for key, tensor in base.tensors().items()}
    if base.config["model_type"].startswith("gemma"):
        tensors[EMBEDDING] *= QUIET
    row = HEAD if HEAD in tensors else EMBEDDING
    tokenizer = base.tokenizer()
    end = end_of_turn(tokenizer)
    tensors[row][tokenizer.eos_token_id if end is None else end] *= STRETCHED
    has_gguf = base.config["model_type"] in ARCHITECTURES
    export = HfExport(base_model=base.path, dtype="float32", formats=("hf", "gguf") if has_gguf else ("hf",))
    write_export(str(folder / "export"), tensors, base.config, export, base, {})
    return folder / "export"


def adapter_of(model: Path, folder: Path) -> str:
    """An adapter that changes the answers of a model."""
    config = LoraConfig(r=4, alpha=8)
    draw = np.random.default_rng(0).normal
    new = adapter_tensors(levanter_model.load_model(str(model), lora=config))
    tensors = {name: (tensor + draw(0, 0.05, tensor.shape)).astype(np.float32) for name, tensor in new.items()}
    folder.mkdir()
    write_adapter(str(folder), Adapter(config, tensors), ModelDirectory(str(model)))
    return str(folder)


def _release(name: str) -> Release:
    release = RELEASES["qwen 3" if name == OURS else name]
    if release.tokenizer_files == "vocabulary and merges":  # in which special tokens would share ids with others
        release = dataclasses.replace(release, tokenizer_files="template in the config")
    if name == OURS:
        release = dataclasses.replace(release, tokenizer="plain", template="chatml", generation=None)
    # The scale of queries is that of llama.cpp.
    of_heads = ("head_dim", "query_pre_attn_scalar")
    config = {key: 32 if key in of_heads else value for key, value in release.config.items()}
    return dataclasses.replace(release, sizes={**release.sizes, **SIZES}, config=config)
