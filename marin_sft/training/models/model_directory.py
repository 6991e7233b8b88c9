"""A Hugging Face model directory: config.json, safetensors, tokenizer, generation_config.json. No JAX, no hub; what
planning asks of it, numpy neither.

    model = ModelDirectory(path); model.config, model.tensors(), model.tokenizer()
    with writing(path) as local: write_json(local, "config.json", config); write_tensors(local, tensors)

Both take a local path or one of an object store (gs://, s3://).
"""

from __future__ import annotations

import copy
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.disk import is_local
from marin_sft.errors import TrainingError
from marin_sft.paths import file_system, local_path, names_in
from marin_sft.training.models.model_config import with_older_fields
from marin_sft.training.models.stored_tensors import AGAIN, LocalFile, RemoteFile, StoredTensors

if TYPE_CHECKING:
    import numpy as np

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9


class ModelDirectory:
    """The model, or adapter, in the directory `path`. Nothing is read before it is asked for. Small files are kept
    then; tensors are not: `tensors` reads them each time.

    Raises:
        TrainingError: when there is no such directory. A hub id is not looked up: download it in a step of its own.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._local = local_path(self.path)
        self._objects: dict[str, dict[str, Any] | None] = {}
        if not self._is_there():
            raise TrainingError(
                f"no model directory at {self.path!r}: expected a directory with config.json and *.safetensors; "
                "a hub id is fetched by a download step, whose output is given here"
            )

    def _is_there(self) -> bool:
        if self._local is not None:
            return os.path.isdir(self._local)
        filesystem, plain = file_system(self.path)
        return bool(filesystem.isdir(plain))

    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """The fields of config.json: see `with_older_fields`. Raises TrainingError when there is none, or as there."""
        stored = self.json("config.json")
        if stored is None:
            raise TrainingError(f"no config.json in {self.path!r}: expected a Hugging Face model directory")
        return with_older_fields(stored, f"{self.path}/config.json")

    def json(self, name: str) -> Mapping[str, Any] | None:
        """The object in the file `name`; None when there is no such file. Raises TrainingError when it is no object."""
        if name not in self._objects:
            self._objects[name] = self._read_json(name)
        return self._objects[name]

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            content = self._read(name)
        except FileNotFoundError:
            return None
        path = f"{self.path}/{name}"
        try:
            value = json.loads(content.decode("utf-8"))
        except ValueError as error:
            raise TrainingError(f"{path}: expected JSON: {error}; {AGAIN}") from error
        if not isinstance(value, dict):
            raise TrainingError(f"{path}: expected a JSON object, got {type(value).__name__}; {AGAIN}")
        return value

    def _read(self, name: str) -> bytes:
        if self._local is not None:
            with open(os.path.join(self._local, name), "rb") as file:
                return file.read()
        filesystem, plain = file_system(self.path)
        return bytes(filesystem.cat_file(f"{plain}/{name}"))

    @functools.cached_property
    def _names(self) -> list[str]:
        """Of what lies in it."""
        return names_in(self.path) if self._local is None else sorted(os.listdir(self._local))

    def weight_files(self) -> list[str]:
        """The names of its safetensors files: as in transformers, model.safetensors goes before an index.

        Raises:
            TrainingError: when there are none (pytorch_model.bin is not read), or one is missing.
        """
        index = None if WEIGHTS in self._names else self.json(INDEX)
        names = sorted(set(index["weight_map"].values())) if index else [WEIGHTS]
        for name in names:
            if name not in self._names:
                others = [other for other in self._names if other != "config.json"]
                raise TrainingError(
                    f"no {name} in {self.path!r} (it has {', '.join(others) or 'nothing else'}): expected the weights "
                    "as safetensors; convert other formats: transformers loads them, and its save_pretrained writes "
                    "safetensors"
                )
        return names

    def tensors(self, *names: str) -> StoredTensors:
        """The tensors in its weight files, or in the files `names`. Raises TrainingError as `weight_files`, or for a
        file that is damaged."""
        return StoredTensors(self._open(name) for name in names or self.weight_files())

    def _open(self, name: str) -> LocalFile | RemoteFile:
        if self._local is not None:
            return LocalFile(os.path.join(self._local, name))
        filesystem, plain = file_system(self.path)
        return RemoteFile(filesystem, f"{plain}/{name}", f"{self.path}/{name}")

    def tokenizer(self, chat_template: str | None = None) -> Any:
        """See `load_tokenizer`. Each call gives one of its own."""
        tokenizer = copy.deepcopy(self._tokenizer)
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        return tokenizer

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.path)

    @contextmanager
    def whole(self) -> Iterator[str]:
        """A local directory with all of its files, for libraries that read them: itself, or a temporary copy."""
        if self._local is not None:
            yield self._local
            return
        filesystem, plain = file_system(self.path)
        files = filesystem.find(plain)
        with tempfile.TemporaryDirectory() as local:
            filesystem.get(files, [local + file.removeprefix(plain.rstrip("/")) for file in files])
            yield local


def opened(model: ModelDirectory | str) -> ModelDirectory:
    """`model`, or the directory at that path."""
    return model if isinstance(model, ModelDirectory) else ModelDirectory(model)


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


def write_json(directory: str, name: str, value: Mapping[str, Any]) -> None:
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def write_tensors(
    directory: str,
    tensors: Mapping[str, np.ndarray],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    written: Callable[[str, Mapping[str, np.ndarray]], None] | None = None,
) -> None:
    """One `model.safetensors`, or shards of at most `max_shard_bytes` (or one tensor) with their index.

    Tensors are asked for once, in the order of their names; no more than a shard of them is held. `written` is called
    with the path of each file that was written, and the tensors in it.
    """
    from safetensors.numpy import save_file

    shards: list[list[str]] = []
    total = 0
    for shard in _shards(tensors, max_shard_bytes):
        path = os.path.join(directory, _part(len(shards)))
        save_file(shard, path, metadata={"format": "pt"})
        if written is not None:
            written(path, shard)
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
    config = dict(ModelDirectory(directory).json("tokenizer_config.json") or {})
    # The default of generic tokenizers has token types too, which causal models refuse in `generate`.
    config["model_input_names"] = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template is not None:
        config["chat_template"] = template
    write_json(directory, "tokenizer_config.json", config)
