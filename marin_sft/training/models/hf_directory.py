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
from marin_sft.paths import file_system

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9


@contextmanager
def reading(path: str) -> Iterator[str]:
    """A local directory with the files of `path`: itself when local, else a temporary copy.

    Raises:
        TrainingError: when there is no such directory. A hub id is not looked up: download it in a step of its own.
    """
    filesystem, plain = file_system(path)
    if not filesystem.isdir(plain):
        raise TrainingError(
            f"no model directory at {path!r}: expected a directory with config.json and *.safetensors; "
            "a hub id is fetched by a download step, whose output is given here"
        )
    if _is_local(filesystem):
        yield plain
        return
    with tempfile.TemporaryDirectory() as local:
        files = filesystem.find(plain)
        filesystem.get(files, [local + file.removeprefix(plain.rstrip("/")) for file in files])
        yield local


@contextmanager
def writing(path: str) -> Iterator[str]:
    """A local directory whose files are at `path` once the block is done: uploaded when `path` is remote."""
    filesystem, plain = file_system(path)
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

    transformers 5 writes `rope_parameters` (for models with sliding windows, one for each type of layer); readers of
    the older fields would take their default theta, silently.
    """
    config = read_json(directory, "config.json")
    if config is None:
        raise TrainingError(f"no config.json in {directory!r}: expected a Hugging Face model directory")
    rope = dict(config.get("rope_parameters") or {})
    if "full_attention" in rope:
        config.setdefault("rope_local_base_freq", rope["sliding_attention"]["rope_theta"])
        rope = dict(rope["full_attention"])
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


class StoredTensors(Mapping[str, np.ndarray]):
    """The tensors of a directory's safetensors files by name, each read when it is asked for; bfloat16 comes as
    ml_dtypes' bfloat16.

    Raises:
        TrainingError: when there are none (pytorch_model.bin is not read), or a shard of the index is missing.
    """

    def __init__(self, directory: str) -> None:
        import ml_dtypes  # noqa: F401  (teaches numpy the name bfloat16)
        from safetensors import safe_open

        index = read_json(directory, INDEX)
        names = sorted(set(index["weight_map"].values())) if index else [WEIGHTS]
        self._files: dict[str, Any] = {}
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.exists(path):
                others = sorted(set(os.listdir(directory)) - {"config.json"})
                raise TrainingError(
                    f"no {name} in {directory!r} (it has {', '.join(others) or 'nothing else'}): expected the weights "
                    "as safetensors; convert other formats: transformers loads them, and its save_pretrained writes "
                    "safetensors"
                )
            file = safe_open(path, framework="numpy")
            self._files.update(dict.fromkeys(file.keys(), file))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def read_tensors(directory: str) -> dict[str, np.ndarray]:
    """All tensors of a directory at once. Raises as `StoredTensors`."""
    return dict(StoredTensors(directory))


def write_tensors(directory: str, tensors: Mapping[str, np.ndarray], max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """One `model.safetensors`, or shards of at most `max_shard_bytes` (or one tensor) with their index.

    Tensors are asked for once, in the order of their names; no more than a shard of them is held.
    """
    from safetensors.numpy import save_file

    shards: list[list[str]] = []
    total = 0
    for shard in _shards(tensors, max_shard_bytes):
        save_file(shard, os.path.join(directory, _part(len(shards))), metadata={"format": "pt"})
        shards.append(list(shard))
        total += sum(tensor.nbytes for tensor in shard.values())
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards):
        file = WEIGHTS if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        os.replace(os.path.join(directory, _part(i)), os.path.join(directory, file))
        weight_map.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        write_json(directory, INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _part(i: int) -> str:
    """The name of a shard until it is known how many there are."""
    return f"part-{i}"


def _shards(tensors: Mapping[str, np.ndarray], max_bytes: int) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    room = max_bytes
    for name in sorted(tensors):
        # safetensors writes the buffer as it lies: a transposed view would be saved scrambled.
        tensor = np.ascontiguousarray(tensors[name])
        if tensor.nbytes > room and shard:
            yield shard
            shard, room = {}, max_bytes
        shard[name] = tensor
        room -= tensor.nbytes
    yield shard


def save_tokenizer(directory: str, tokenizer: Any) -> None:
    """The tokenizer's files, its chat template both as `chat_template.jinja` and in `tokenizer_config.json`:
    newer readers look for the file, older ones only for the field."""
    tokenizer.save_pretrained(directory)
    config = read_json(directory, "tokenizer_config.json") or {}
    # The default of generic tokenizers has token types too, which causal models refuse in `generate`.
    config["model_input_names"] = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    write_json(directory, "tokenizer_config.json", config)


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
    """The id of the token that the chat template puts behind an assistant's message; None without one."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        return None
    answer = "an answer that no template contains"
    dialogue = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": answer}]
    try:
        _, _, tail = tokenizer.apply_chat_template(dialogue, tokenize=False).rpartition(answer)
    except TemplateError:  # one that does not take such a dialogue, e.g. without a system turn
        return None
    # Runs of spaces are added tokens of some tokenizers, and end nothing.
    added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    return next((i for i in tokenizer.encode(tail, add_special_tokens=False) if i in added), None)
