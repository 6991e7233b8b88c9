"""A Hugging Face model directory: config.json, safetensors, tokenizer, generation_config.json. No JAX, no hub; what
planning asks of it, numpy neither.

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
from typing import TYPE_CHECKING, Any

from marin_sft.disk import is_local
from marin_sft.errors import TrainingError
from marin_sft.paths import file_system

if TYPE_CHECKING:
    import numpy as np

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
_WEIGHTS = (".safetensors", ".bin", ".pth", ".gguf")
AGAIN = "the file is damaged or incomplete: copy or download it again"


@contextmanager
def reading(path: str, *, weights: bool = True) -> Iterator[str]:
    """A local directory with the files of `path`: itself when local, else a temporary copy, `weights` among it or not.

    Raises:
        TrainingError: when there is no such directory. A hub id is not looked up: download it in a step of its own.
    """
    filesystem, plain = file_system(path)
    if not filesystem.isdir(plain):
        raise TrainingError(
            f"no model directory at {path!r}: expected a directory with config.json and *.safetensors; "
            "a hub id is fetched by a download step, whose output is given here"
        )
    if is_local(filesystem):
        yield plain
        return
    with tempfile.TemporaryDirectory() as local:
        skipped = () if weights else _WEIGHTS
        files = [file for file in filesystem.find(plain) if not file.endswith(skipped)]
        filesystem.get(files, [local + file.removeprefix(plain.rstrip("/")) for file in files])
        yield local


@contextmanager
def writing(path: str) -> Iterator[str]:
    """A local directory whose files are at `path` once the block is done: uploaded when `path` is remote."""
    filesystem, plain = file_system(path)
    if is_local(filesystem):
        os.makedirs(plain, exist_ok=True)
        yield plain
        return
    with tempfile.TemporaryDirectory() as local:
        yield local
        filesystem.put(local + "/", plain.rstrip("/") + "/", recursive=True)


def read_config(directory: str) -> dict[str, Any]:
    """`config.json`, with `rope_theta` and `rope_scaling` at the top level whoever wrote it.

    transformers 5 writes `rope_parameters` (for models with sliding windows, one for each type of layer); readers of
    the older fields would take their default theta, silently. A `rope_scaling` has its kind as `rope_type`. The "gelu"
    of a Gemma 1 is a slip of its publishers for the approximation, which transformers 5 takes, and 4 does not.

    Raises:
        TrainingError: when there is none, or both forms are there and differ.
    """
    config = read_json(directory, "config.json")
    if config is None:
        raise TrainingError(f"no config.json in {directory!r}: expected a Hugging Face model directory")
    if config.get("quantization_config", 0) is None:  # transformers takes the field for one that is set
        del config["quantization_config"]
    if config.get("model_type") == "gemma" and config.get("hidden_act") == "gelu":
        config["hidden_act"] = "gelu_pytorch_tanh"
    if "rope_scaling" in config:
        config["rope_scaling"] = _scaling(config["rope_scaling"])
    for name, value in older_rope(config.get("rope_parameters") or {}).items():
        if config.get(name) not in (None, value):
            raise TrainingError(
                f"{directory}/config.json: {name} = {config[name]!r}, but rope_parameters say {value!r}: transformers "
                "4 reads the one and transformers 5 the other; leave the wrong one out"
            )
        config[name] = value
    return config


def older_rope(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The older fields that say what `rope_parameters` does, but for those that it leaves out."""
    found: dict[str, Any] = {}
    if "full_attention" in parameters:
        found["rope_local_base_freq"] = (parameters.get("sliding_attention") or {}).get("rope_theta")
        parameters = parameters["full_attention"]
    found |= {name: parameters.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    found["rope_scaling"] = _scaling({name: value for name, value in parameters.items() if name not in found})
    return {name: value for name, value in found.items() if value is not None}


def _scaling(rope: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Older configs call the kind `type`; a kind that scales nothing is none."""
    factors = {name: value for name, value in (rope or {}).items() if name not in ("rope_type", "type")}
    kind = (rope or {}).get("rope_type") or (rope or {}).get("type") or (None if factors else "default")
    return None if kind == "default" else {"rope_type": kind, **factors}


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The same config for weights of `dtype`, e.g. "bfloat16", under the name that both old and new readers know."""
    return {**{key: value for key, value in config.items() if key != "dtype"}, "torch_dtype": dtype}


def read_json(directory: str, name: str) -> dict[str, Any] | None:
    """The object in `directory/name`; None when there is no such file. Raises TrainingError when it is no object."""
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except ValueError as error:
        raise TrainingError(f"{path}: expected JSON: {error}; {AGAIN}") from error
    if not isinstance(value, dict):
        raise TrainingError(f"{path}: expected a JSON object, got {type(value).__name__}; {AGAIN}")
    return value


def write_json(directory: str, name: str, value: Mapping[str, Any]) -> None:
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def weight_files(directory: str) -> list[str]:
    """The paths of a directory's safetensors files: as in transformers, model.safetensors goes before an index.

    Raises:
        TrainingError: when there are none (pytorch_model.bin is not read), or one is missing.
    """
    index = None if os.path.exists(os.path.join(directory, WEIGHTS)) else read_json(directory, INDEX)
    names = sorted(set(index["weight_map"].values())) if index else [WEIGHTS]
    for name in names:
        if not os.path.exists(os.path.join(directory, name)):
            others = sorted(set(os.listdir(directory)) - {"config.json"})
            raise TrainingError(
                f"no {name} in {directory!r} (it has {', '.join(others) or 'nothing else'}): expected the weights "
                "as safetensors; convert other formats: transformers loads them, and its save_pretrained writes "
                "safetensors"
            )
    return [os.path.join(directory, name) for name in names]


class StoredTensors(Mapping[str, "np.ndarray"]):
    """The tensors of a directory's safetensors files by name, each read when it is asked for; bfloat16 comes as
    ml_dtypes' bfloat16.

    Raises:
        TrainingError: as `weight_files`, or a file is damaged.
    """

    def __init__(self, directory: str) -> None:
        self._files: dict[str, Any] = {}
        for path in weight_files(directory):
            file = open_safetensors(path)
            self._files.update(dict.fromkeys(file.keys(), file))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def open_safetensors(path: str) -> Any:
    """The file, open: `keys()` and `get_tensor(name)`. Raises TrainingError when it is damaged."""
    import ml_dtypes  # noqa: F401  (teaches numpy the name bfloat16)
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        size = os.path.getsize(path)
        raise TrainingError(f"{path} ({size:,} bytes): expected safetensors: {error}; {AGAIN}") from error


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
    import numpy as np

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
    newer readers look for the file, older ones only for the field. There, several templates are a list of names and
    templates, the one form that all of them read."""
    tokenizer.save_pretrained(directory)
    config = read_json(directory, "tokenizer_config.json") or {}
    # The default of generic tokenizers has token types too, which causal models refuse in `generate`.
    config["model_input_names"] = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template is not None:
        config["chat_template"] = template
    write_json(directory, "tokenizer_config.json", config)


def generation_config(tokenizer: Any, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`source` (a generation_config.json), with every id that ends an answer in its `eos_token_id` list: those of
    `source`, the tokenizer's EOS, and the token with which the chat template closes an assistant's turn."""
    source = dict(source or {})
    listed = source.get("eos_token_id")
    ends = listed if isinstance(listed, list) else [listed]
    ends = [*ends, tokenizer.eos_token_id, end_of_turn(tokenizer)]
    source["eos_token_id"] = list(dict.fromkeys(end for end in ends if is_id(end)))
    for name in ("bos_token_id", "pad_token_id"):
        if not is_id(source.get(name)):
            source[name] = getattr(tokenizer, name)
        if source[name] is None:
            del source[name]
    return source


def is_id(id: int | None) -> bool:
    """Whether it is one: the first Llamas have -1 for a token that they do without."""
    return id is not None and id >= 0


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
