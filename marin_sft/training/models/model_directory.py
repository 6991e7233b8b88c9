"""A Hugging Face model directory: config.json, safetensors, tokenizer, generation_config.json. No JAX, no hub; and no
numpy for what planning reads.

    model = ModelDirectory(path); model.config, model.tensors(), model.tokenizer()
    with writing(path) as local: write_json(local, "config.json", config); write_tensors(local, tensors)

Both take a local path or one in an object store (gs://, s3://).
"""

from __future__ import annotations

import copy
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.disk import is_local
from marin_sft.errors import TrainingError
from marin_sft.nearest import listed
from marin_sft.paths import file_system, local_path, names_in
from marin_sft.training.models.model_config import Fields, with_defaults, with_older_fields
from marin_sft.training.models.rope_scaling import with_scaling
from marin_sft.training.models.stored_tensors import AGAIN, LocalFile, RemoteFile, StoredTensors

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SENTENCEPIECE = "tokenizer.model"
"""A tokenizer as SentencePiece has it, from which converters to other formats read it."""
MAX_SHARD_BYTES = 5 * 10**9


class ModelDirectory:
    """The model, or adapter, in the directory `path`. Files are read when they are needed. Small files are then kept;
    tensors are not: `tensors` reads them each time.

    rope_scaling: the value of `RopeSettings` that its config gets.

    Raises:
        TrainingError: there is no such directory. A hub id is not looked up: download it in a step of its own.
    """

    def __init__(self, path: str | os.PathLike[str], rope_scaling: Fields | None = None) -> None:
        self.path = os.fspath(path)
        self._rope_scaling = rope_scaling
        self._local = local_path(self.path)
        self._objects: dict[str, Fields | None] = {}
        if not self._is_there():
            raise TrainingError(
                f"no model directory at {self.path!r}: expected a directory with config.json and *.safetensors; "
                "for a hub id, add a download step and give its output"
            )

    def _is_there(self) -> bool:
        if self._local is not None:
            return os.path.isdir(self._local)
        filesystem, plain = file_system(self.path)
        return bool(filesystem.isdir(plain))

    @functools.cached_property
    def config(self) -> Fields:
        """The fields of config.json: see `with_older_fields` and `with_scaling`. Raises TrainingError if there is none,
        or as there."""
        stored = self.json("config.json")
        if stored is None:
            there = listed(self._names, most=8) or "nothing"
            raise TrainingError(
                f"no config.json in {self.path!r} (it has {there}): expected a Hugging Face model directory"
            )
        return with_scaling(with_older_fields(stored, f"{self.path}/config.json"), self._rope_scaling)

    @functools.cached_property
    def whole_config(self) -> Fields:
        """`config` with the architecture's defaults: see `with_defaults`."""
        return with_defaults(self.config)

    def file(self, name: str) -> bytes | None:
        """The content of the file `name`; None if there is no such file."""
        try:
            return self._read(name)
        except FileNotFoundError:
            return None

    def json(self, name: str) -> Fields | None:
        """The object in the file `name`; None if there is no such file. Raises TrainingError if it is not an object."""
        if name not in self._objects:
            self._objects[name] = self._read_json(name)
        return self._objects[name]

    def _read_json(self, name: str) -> Fields | None:
        content = self.file(name)
        if content is None:
            return None
        path = f"{self.path}/{name}"
        try:
            value = json.loads(content.decode("utf-8"))
        except ValueError as error:
            raise TrainingError(f"{path}: expected JSON: {error}; {AGAIN}") from error
        if not isinstance(value, dict):
            raise TrainingError(f"{path}: expected a JSON object, got {type(value).__name__}; {AGAIN}")
        return value

    def text(self, name: str) -> str | None:
        """The file `name`, which anyone may have written. None: there is none."""
        try:
            return self._read(name).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def _read(self, name: str) -> bytes:
        if self._local is not None:
            with open(os.path.join(self._local, name), "rb") as file:
                return file.read()
        filesystem, plain = file_system(self.path)
        return bytes(filesystem.cat_file(f"{plain}/{name}"))

    @functools.cached_property
    def _names(self) -> list[str]:
        """Of the files in it."""
        return names_in(self.path) if self._local is None else sorted(os.listdir(self._local))

    def weight_files(self) -> list[str]:
        """The names of its safetensors files. As in transformers, model.safetensors takes precedence over an index.

        Raises:
            TrainingError: there are none (pytorch_model.bin is not read), or one is missing.
        """
        index = None if WEIGHTS in self._names else self.json(INDEX)
        names = sorted(set(index["weight_map"].values())) if index else [WEIGHTS]
        for name in names:
            if name not in self._names:
                others = [other for other in self._names if other != "config.json"]
                raise TrainingError(
                    f"no {name} in {self.path!r} (it has {', '.join(others) or 'nothing else'}): expected the weights "
                    "as safetensors; to convert other formats, load them with transformers: its save_pretrained writes "
                    "safetensors"
                )
        return names

    def tensors(self, *names: str) -> StoredTensors:
        """The tensors in its weight files, or in the files `names`. Raises TrainingError as `weight_files` does, and
        if a file is damaged."""
        return StoredTensors(self._open(name) for name in names or self.weight_files())

    def _open(self, name: str) -> LocalFile | RemoteFile:
        if self._local is not None:
            return LocalFile(os.path.join(self._local, name))
        filesystem, plain = file_system(self.path)
        return RemoteFile(filesystem, f"{plain}/{name}", f"{self.path}/{name}")

    def tokenizer(self, chat_template: str | None = None) -> PreTrainedTokenizerFast:
        """See `load_tokenizer`. Each call returns a new copy."""
        tokenizer = copy.deepcopy(self._tokenizer)
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        return tokenizer

    @functools.cached_property
    def _tokenizer(self) -> PreTrainedTokenizerFast:
        return load_tokenizer(self.path)

    @contextmanager
    def whole(self) -> Iterator[str]:
        """A local directory with all files, for libraries that read them: this one, or a temporary copy."""
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
    """A local directory whose files are at `path` when the block ends. They are uploaded if `path` is remote."""
    filesystem, plain = file_system(path)
    if is_local(filesystem):
        os.makedirs(plain, exist_ok=True)
        yield plain
        return
    with tempfile.TemporaryDirectory() as local:
        yield local
        filesystem.put(local + "/", plain.rstrip("/") + "/", recursive=True)


def write_json(directory: str, name: str, value: Fields) -> None:
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def write_tensors(
    directory: str,
    tensors: Mapping[str, np.ndarray],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    written: Callable[[str, Mapping[str, np.ndarray]], None] | None = None,
) -> None:
    """Write one `model.safetensors`, or an index and shards of at most `max_shard_bytes` (or one tensor).

    Each tensor is read once, in the order of names; no more than a shard is held in memory. `written` is called with
    the path of each file and the tensors in it.
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
    """The name of a shard until their number is known."""
    return f"part-{i}"


def _shards(tensors: Mapping[str, np.ndarray], max_bytes: int) -> Iterator[dict[str, np.ndarray]]:
    import numpy as np

    shard: dict[str, np.ndarray] = {}
    room = max_bytes
    for name in sorted(tensors):
        # safetensors writes the buffer as it is: a transposed view would be saved scrambled.
        tensor = np.ascontiguousarray(tensors[name])
        if tensor.nbytes > room and shard:
            yield shard
            shard, room = {}, max_bytes
        shard[name] = tensor
        room -= tensor.nbytes
    yield shard


def save_tokenizer(directory: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the tokenizer's files, with its chat template both in `chat_template.jinja` and `tokenizer_config.json`.

    Newer readers look for the file, older ones only for the field. In the field, several templates are a list of names
    and templates, the one form that all versions read.
    """
    tokenizer.save_pretrained(directory)
    config = dict(ModelDirectory(directory).json("tokenizer_config.json") or {})
    # Generic tokenizers return token types by default, which `generate` of causal models refuses.
    config["model_input_names"] = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template is not None:
        config["chat_template"] = template
    write_json(directory, "tokenizer_config.json", config)
