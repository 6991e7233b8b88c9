"""A model with random weights as a Hugging Face directory, to train from scratch or to try a pipeline."""

from __future__ import annotations

from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.training.models import levanter_model
from marin_sft.training.models.generation import generation_config
from marin_sft.training.models.model_directory import save_tokenizer, write_json, write_tensors, writing
from marin_sft.training.models.random_model_config import RandomModelConfig


def random_model(config: RandomModelConfig) -> None:
    """Write config.json, model.safetensors (float32), generation_config.json and the tokenizer's files."""
    tokenizer = load_tokenizer(config.tokenizer)
    shape = config.model.hf_config(vocab_size=len(tokenizer))
    ends = generation_config(tokenizer)
    special = {name: ends.get(name) for name in ("bos_token_id", "pad_token_id")}
    weights = levanter_model.model_tensors(levanter_model.random_model(shape, config.seed))
    with writing(config.output_path) as local:
        write_json(local, "config.json", {**shape, **special, "eos_token_id": tokenizer.eos_token_id})
        write_tensors(local, weights)
        write_json(local, "generation_config.json", ends)
        save_tokenizer(local, tokenizer)
