"""Reads an export back, and checks everything that a server would load.

The values that a reader computes with are compared. The same reader reads the intended fields and the written ones. So
what it changes itself (its version, the place of the file, the window of a model that uses none, default values) is the
same on both sides, and a field that it does not take from the file differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from marin_sft.errors import ExportError, TrainingError
from marin_sft.export import serving
from marin_sft.paths import file_system
from marin_sft.training.models.model_config import Fields
from marin_sft.training.models.model_directory import ModelDirectory

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerFast

DIALOGUE = [
    {"role": "user", "content": "2 + 2 = ?\n"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And one more, s'il te plaît?"},
    {"role": "assistant", "content": " 5\n"},
]


def verify_files(
    local: str,
    config: Fields,
    generation: Fields,
    tokenizer: PreTrainedTokenizerFast,
    chat_template_kwargs: Mapping[str, object],
) -> None:
    """Compare all files in the directory `local` except the weights with what they should be.

    config: fields of a config.json that describe the trained model.
    tokenizer: with the chat template of training, which was rendered with `chat_template_kwargs`; the exported one must
    render the same without them.

    Raises:
        ExportError: names the first difference.
    """
    from transformers import AutoConfig, GenerationConfig

    path = f"{local}/config.json"
    _verify_fields(
        path,
        AutoConfig.for_model(**config).to_dict(),
        _read(path, lambda: AutoConfig.from_pretrained(local, trust_remote_code=False)),
        without={"transformers_version", "rope_parameters", *serving.generation_defaults()},
    )
    _verify_both_ropes(local)
    path = f"{local}/generation_config.json"
    meant = _read(path, lambda: GenerationConfig.from_dict(dict(generation)))
    _verify_fields(path, meant, _read(path, lambda: GenerationConfig.from_pretrained(local)), {"transformers_version"})
    _verify_tokenizer(local, tokenizer, chat_template_kwargs)


def verify_upload(path: str, sizes: Mapping[str, int]) -> None:
    """Raise ExportError unless the files at `path` (local or remote) have these sizes in bytes."""
    filesystem, plain = file_system(path)
    for name, size in sizes.items():
        got = filesystem.info(f"{plain}/{name}")["size"]
        if got != size:
            raise ExportError(f"{path}/{name} has {got} bytes, expected {size}: the upload is incomplete; run it again")


def _read(path: str, reader: Callable[[], PretrainedConfig | GenerationConfig]) -> Fields:
    try:
        fields: Fields = reader().to_dict()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ExportError(
            f"{path}: transformers cannot read it: {error}; correct the base model's file with that name"
        ) from error
    return fields


def _verify_fields(path: str, expected: Fields, got: Fields, without: Collection[str]) -> None:
    """Compare both as read, except the fields `without` and the reader's own notes."""
    for name in sorted({*expected, *got}):
        if name not in without and not serving.is_note(name) and expected.get(name) != got.get(name):
            name, told = ("torch_dtype", name) if name == "dtype" else (name, name)
            raise ExportError(
                f"{path}: transformers reads {name} = {got.get(told)!r}, expected {expected.get(told)!r}: the model "
                "would not be served as it was trained, so the export is not published"
            )


def _verify_both_ropes(local: str) -> None:
    """The fields for transformers 4, which were compared, must agree with the one for transformers 5."""
    try:
        _ = ModelDirectory(local).config
    except TrainingError as error:
        raise ExportError(str(error)) from error


def verify_weights(local: str, got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Raise ExportError unless `got`, read back from `local`, equals `expected` bit for bit."""
    verify_names(local, got, expected)
    for name in expected:
        wanted, found = expected[name], got[name]
        if wanted.dtype != found.dtype or not np.array_equal(wanted, found):
            raise ExportError(
                f"{local}: tensor {name} read back is not the trained one; the disk may be full or faulty"
            )


def verify_names(local: str, got: Collection[str], expected: Collection[str]) -> None:
    """Raise ExportError unless the tensors in `local` have the names `expected`."""
    differ = sorted(set(expected) ^ set(got))
    if differ:
        raise ExportError(f"{local}: tensors {differ[:3]} are missing, or should not be there")


def _verify_tokenizer(local: str, tokenizer: PreTrainedTokenizerFast, kwargs: Mapping[str, object]) -> None:
    from transformers import AutoTokenizer

    reloaded = AutoTokenizer.from_pretrained(local, local_files_only=True, trust_remote_code=False)
    text = "".join(message["content"] for message in DIALOGUE)
    _same_ids(local, tokenizer.encode(text), reloaded.encode(text))
    if (tokenizer.chat_template is None) != (reloaded.chat_template is None):
        raise ExportError(f"{local}: the chat template was lost")
    if tokenizer.chat_template is None:
        return
    for dialogue, prompt in ((DIALOGUE, False), (DIALOGUE[:-1], True)):
        options = {"tokenize": False, "add_generation_prompt": prompt}
        wanted = _rendered(tokenizer, dialogue, **options, **kwargs)
        found = _rendered(reloaded, dialogue, **options)
        if wanted != found:
            raise ExportError(
                f"{local}: the chat template read back renders {found!r}, expected {wanted!r} as in training"
            )
        # The template writes the special tokens itself; adding them again would double the BOS.
        pair = (t.encode(wanted, add_special_tokens=False) for t in (tokenizer, reloaded))
        _same_ids(local, *pair)


def _rendered(tokenizer: PreTrainedTokenizerFast, dialogue: list[dict[str, str]], **options: object) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(dialogue, **options)
    except TemplateError as refusal:  # a template may refuse this dialogue; then both must refuse it
        return f"refused: {refusal}"


def _same_ids(local: str, expected: list[int], got: list[int]) -> None:
    if expected != got:
        raise ExportError(f"{local}: the tokenizer read back gives ids {got}, expected {expected}")
