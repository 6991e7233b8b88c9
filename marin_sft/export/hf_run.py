"""What `export_hf` does, with JAX: see `marin_sft.export.hf`."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from marin_sft.errors import ExportError
from marin_sft.export.hf_config import DTYPES, ExportConfig
from marin_sft.training import hf_directory

PROBE_TOKENS = 32
LOGIT_TOLERANCE = 1e-4
# Fields for generation that belong to generation_config.json; in config.json transformers only warns of them.
GENERATION_FIELDS = ("begin_suppress_tokens", "decoder_start_token_id", "max_length", "suppress_tokens")


def run(config: ExportConfig) -> None:
    from marin_sft.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(config.tokenizer or config.base_model, config.chat_template)
    with hf_directory.reading(config.base_model) as base:
        shape = hf_directory.read_config(base)
        generation = hf_directory.generation_config(tokenizer, hf_directory.read_json(base, "generation_config.json"))
    dtype = config.dtype or _dtype_of(shape)
    _check_tokenizer(tokenizer, shape)
    with hf_directory.reading(f"{config.checkpoint}/model") as trained:
        tensors = _cast(hf_directory.read_tensors(trained), dtype)
        with hf_directory.writing(config.output_path) as local:
            served = {key: value for key, value in shape.items() if key not in GENERATION_FIELDS}
            hf_directory.write_json(local, "config.json", hf_directory.with_dtype(served, dtype))
            hf_directory.write_tensors(local, tensors)
            hf_directory.write_json(local, "generation_config.json", generation)
            hf_directory.save_tokenizer(local, tokenizer)
            _verify_weights(tensors, local)
            _verify_tokenizer(tokenizer, local)
            _verify_logits(trained, local, exact=dtype == "float32")


def _dtype_of(shape: dict[str, Any]) -> str:
    dtype = shape.get("torch_dtype") or shape.get("dtype") or "float32"
    if dtype not in DTYPES:
        raise ExportError(f"the base model's config.json has dtype {dtype!r}, expected one of {DTYPES}; set dtype")
    return dtype


def _cast(tensors: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    as_numpy = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return {name: tensor.astype(as_numpy) for name, tensor in tensors.items()}


def _check_tokenizer(tokenizer: Any, shape: dict[str, Any]) -> None:
    if len(tokenizer) > shape["vocab_size"]:
        raise ExportError(
            f"the tokenizer has {len(tokenizer)} tokens, expected at most vocab_size = {shape['vocab_size']} of the "
            "base model's config.json: export with the tokenizer that the data was tokenized with"
        )


def _verify_weights(expected: dict[str, np.ndarray], local: str) -> None:
    got = hf_directory.read_tensors(local)
    if expected.keys() != got.keys():
        raise ExportError(f"{local}: tensors {sorted(expected.keys() ^ got.keys())[:3]} are not on both sides")
    for name, tensor in expected.items():
        if tensor.dtype != got[name].dtype or not np.array_equal(tensor, got[name]):
            raise ExportError(
                f"{local}: tensor {name} read back is not the trained one; the disk may be full or faulty"
            )
        if not np.isfinite(tensor.astype(np.float32)).all():
            raise ExportError(
                f"{local}: tensor {name} has values that are not finite as {tensor.dtype}; "
                "export as float32, or look at the metrics of the training step"
            )


def _verify_tokenizer(tokenizer: Any, local: str) -> None:
    from transformers import AutoTokenizer

    reloaded = AutoTokenizer.from_pretrained(local, local_files_only=True)
    dialogue = [{"role": "user", "content": "2 + 2 = ?"}, {"role": "assistant", "content": "4\n"}]
    if reloaded.chat_template != tokenizer.chat_template:
        raise ExportError(f"{local}: the chat template read back is not the one trained with")
    renders = tokenizer.chat_template is not None
    before, after = (
        t.apply_chat_template(dialogue) if renders else t.encode("2 + 2 = ?") for t in (tokenizer, reloaded)
    )
    if before != after:
        raise ExportError(f"{local}: the tokenizer read back gives ids {after}, expected {before}")


def _verify_logits(trained: str, local: str, *, exact: bool) -> None:
    """One forward pass of both directories on the same ids: finite, and equal where no rounding came between."""
    from marin_sft.training import levanter_model

    before = levanter_model.load_model(trained)
    length = min(PROBE_TOKENS, before.max_length)
    tokens = np.random.default_rng(0).integers(0, before.Vocab.size, (1, length)).astype(np.int32)
    expected = np.asarray(levanter_model.logits(before, tokens))
    del before
    got = np.asarray(levanter_model.logits(levanter_model.load_model(local), tokens))
    difference = float(np.abs(got - expected).max())
    if not np.isfinite(difference) or (exact and difference > LOGIT_TOLERANCE):
        raise ExportError(
            f"{local}: logits differ from the trained model's by {difference}, expected at most {LOGIT_TOLERANCE}: "
            "config.json does not describe the model that was trained"
        )
