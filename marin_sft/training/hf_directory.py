"""A Hugging Face model directory: config.json, safetensors, tokenizer, generation_config.json. No JAX, no hub.

    with reading(path) as local: config, tensors = read_config(local), read_tensors(local)
    with writing(path) as local: write_config(local, config); write_tensors(local, tensors)

`reading` and `writing` make a remote path (gs://, s3://) look like a local directory.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import fsspec
import numpy as np

from marin_sft.errors import TrainingError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9


@contextmanager
def reading(path: str) -> Iterator[str]:
    """A local directory with the files of `path`: itself when local, else a temporary copy.

    Raises:
        TrainingError: when there is no such directory. A hub id is not looked up: download it in a step of its own.
    """
    filesystem, plain = fsspec.core.url_to_fs(path)
    if not filesystem.isdir(plain):
        raise TrainingError(
            f"no model directory at {path!r}: expected a directory with config.json and *.safetensors; "
            "a hub id is fetched by a download step, whose output is given here"
        )
    if _is_local(filesystem):
        yield plain
        return
    with tempfile.TemporaryDirectory() as local:
        filesystem.get(plain.rstrip("/") + "/", local + "/", recursive=True)
        yield local


@contextmanager
def writing(path: str) -> Iterator[str]:
    """A local directory whose files are at `path` once the block is done: uploaded when `path` is remote."""
    filesystem, plain = fsspec.core.url_to_fs(path)
    if _is_local(filesystem):
        os.makedirs(plain, exist_ok=True)
        yield plain
        return
    with tempfile.TemporaryDirectory() as local:
        yield local
        filesystem.put(local + "/", plain.rstrip("/") + "/", recursive=True)


def _is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def read_config(directory: str) -> dict[str, Any]:
    """`config.json`, with `rope_theta` and `rope_scaling` at the top level whoever wrote it.

    transformers 5 writes `rope_parameters`; readers of the older fields would take their default theta, silently.
    """
    config = read_json(directory, "config.json")
    if config is None:
        raise TrainingError(f"no config.json in {directory!r}: expected a Hugging Face model directory")
    rope = dict(config.get("rope_parameters") or {})
    if rope:
        config.setdefault("rope_theta", rope.pop("rope_theta", None))
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", rope)
    return config


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The same config for weights of `dtype`, e.g. "bfloat16", under the name that both old and new readers know."""
    return {**{key: value for key, value in config.items() if key != "dtype"}, "torch_dtype": dtype}


def read_json(directory: str, name: str) -> dict[str, Any] | None:
    """The object in `directory/name`; None when there is no such file."""
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_json(directory: str, name: str, value: Mapping[str, Any]) -> None:
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def read_tensors(directory: str) -> dict[str, np.ndarray]:
    """All tensors of the directory's safetensors files by name; bfloat16 comes as ml_dtypes' bfloat16.

    Raises:
        TrainingError: when there are none (pytorch_model.bin is not read), or a shard of the index is missing.
    """
    import ml_dtypes  # noqa: F401  (teaches numpy the name bfloat16)
    from safetensors.numpy import load_file

    index = read_json(directory, INDEX)
    names = sorted(set(index["weight_map"].values())) if index else [WEIGHTS]
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        path = os.path.join(directory, name)
        if not os.path.exists(path):
            raise TrainingError(
                f"no {name} in {directory!r}: expected the weights as safetensors; "
                "convert other formats with transformers' save_pretrained first"
            )
        tensors.update(load_file(path))
    return tensors


def write_tensors(directory: str, tensors: Mapping[str, np.ndarray], max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """One `model.safetensors`, or shards of at most `max_shard_bytes` (or one tensor) with their index."""
    from safetensors.numpy import save_file

    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        save_file(shards[0], os.path.join(directory, WEIGHTS), metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, os.path.join(directory, name), metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(directory, INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(tensors: Mapping[str, np.ndarray], max_bytes: int) -> list[dict[str, np.ndarray]]:
    shards: list[dict[str, np.ndarray]] = [{}]
    room = max_bytes
    for name, tensor in sorted(tensors.items()):
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = max_bytes
        # safetensors writes the buffer as it lies: a transposed view would be saved scrambled.
        shards[-1][name] = np.ascontiguousarray(tensor)
        room -= tensor.nbytes
    return shards


def save_tokenizer(directory: str, tokenizer: Any) -> None:
    """The tokenizer's files, its chat template both as `chat_template.jinja` and in `tokenizer_config.json`:
    newer readers look for the file, older ones only for the field."""
    tokenizer.save_pretrained(directory)
    if tokenizer.chat_template is not None:
        config = read_json(directory, "tokenizer_config.json") or {}
        write_json(directory, "tokenizer_config.json", {**config, "chat_template": tokenizer.chat_template})


def generation_config(tokenizer: Any, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`source` (a generation_config.json), with every id that ends an answer in its `eos_token_id` list: those of
    `source`, the tokenizer's EOS, and the token with which the chat template closes an assistant's turn."""
    source = dict(source or {})
    listed = source.get("eos_token_id")
    ends = listed if isinstance(listed, list) else [listed]
    ends = [*ends, tokenizer.eos_token_id, end_of_turn(tokenizer)]
    source["eos_token_id"] = list(dict.fromkeys(end for end in ends if end is not None))
    for name in ("bos_token_id", "pad_token_id"):
        if source.get(name) is None and getattr(tokenizer, name) is not None:
            source[name] = getattr(tokenizer, name)
    return source


def end_of_turn(tokenizer: Any) -> int | None:
    """The id of the special token that the chat template puts behind an assistant's message; None without one."""
    if tokenizer.chat_template is None:
        return None
    answer = "an answer that no template contains"
    dialogue = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": answer}]
    _, _, tail = tokenizer.apply_chat_template(dialogue, tokenize=False).rpartition(answer)
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return next((i for i in tokenizer.encode(tail, add_special_tokens=False) if i in special), None)
