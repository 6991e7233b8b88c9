"""Reading an export back: each thing that a server would load has to be what was meant.

What is compared is what a reader computes with. Both the fields that were meant and those written are read by the same
reader, so that what it rewrites on its own (its version, where the file lies, the window of a model that uses none,
defaults that it fills in) is the same on both sides, and a field that it does not take from the file is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from marin_sft.errors import ExportError, TrainingError
from marin_sft.export import serving
from marin_sft.paths import file_system
from marin_sft.training.models.model_directory import ModelDirectory

DIALOGUE = [
    {"role": "user", "content": "2 + 2 = ?\n"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And one more, s'il te plaît?"},
    {"role": "assistant", "content": " 5\n"},
]


def verify_files(
    local: str,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    tokenizer: Any,
    chat_template_kwargs: Mapping[str, Any],
) -> None:
    """Compare what is beside the weights in the directory `local` with what was to be written.

    config: fields of a config.json that mean the model trained. `tokenizer` has the template trained with, which was
    given `chat_template_kwargs`; the one exported renders the same without them.

    Raises:
        ExportError: for the first difference.
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
    """Raises ExportError unless `path` (local or remote) holds files of these sizes in bytes."""
    filesystem, plain = file_system(path)
    for name, size in sizes.items():
        got = filesystem.info(f"{plain}/{name}")["size"]
        if got != size:
            raise ExportError(f"{path}/{name} has {got} bytes, expected {size}: the upload is incomplete; run it again")


def _read(path: str, reader: Callable[[], Any]) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = reader().to_dict()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ExportError(
            f"{path}: transformers cannot read it: {error}; correct the base model's file of that name"
        ) from error
    return fields


def _verify_fields(path: str, expected: Mapping[str, Any], got: Mapping[str, Any], without: Collection[str]) -> None:
    """Compare what the reader made of both, but for the fields `without` and its own notes."""
    for name in sorted({*expected, *got}):
        if name not in without and not serving.is_note(name) and expected.get(name) != got.get(name):
            name, told = ("torch_dtype", name) if name == "dtype" else (name, name)
            raise ExportError(
                f"{path}: transformers reads {name} = {got.get(told)!r}, expected {expected.get(told)!r}: the export "
                "would be served otherwise than it was trained, and is not published"
            )


def _verify_both_ropes(local: str) -> None:
    """The fields for transformers 4, which were compared, and that for transformers 5 have to say the same."""
    try:
        _ = ModelDirectory(local).config
    except TrainingError as error:
        raise ExportError(str(error)) from error


def verify_weights(local: str, got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Raise ExportError unless `got`, read back from `local`, are those `expected`, to the bit."""
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
        raise ExportError(f"{local}: tensors {differ[:3]} are not on both sides")


def _verify_tokenizer(local: str, tokenizer: Any, kwargs: Mapping[str, Any]) -> None:
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


def _rendered(tokenizer: Any, dialogue: list[dict[str, str]], **options: Any) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(dialogue, **options)
    except TemplateError as refusal:  # a template may take other dialogues only; the two have to agree on that
        return f"refused: {refusal}"


def _same_ids(local: str, expected: list[int], got: list[int]) -> None:
    if expected != got:
        raise ExportError(f"{local}: the tokenizer read back gives ids {got}, expected {expected}")
