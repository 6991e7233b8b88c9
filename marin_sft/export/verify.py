"""Reading an export back: each thing that a server would load has to be what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from marin_sft.errors import ExportError
from marin_sft.paths import file_system
from marin_sft.training.models import hf_directory

DIALOGUE = [
    {"role": "user", "content": "2 + 2 = ?\n"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And one more, s'il te plaît?"},
    {"role": "assistant", "content": " 5\n"},
]


def verify(
    local: str,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    tokenizer: Any,
    chat_template_kwargs: Mapping[str, Any],
) -> None:
    """Compare the directory `local` with what was to be written.

    `tokenizer` has the template trained with, which was given `chat_template_kwargs`; the one exported renders the
    same without them.

    Raises:
        ExportError: for the first difference.
    """
    from transformers import AutoConfig, GenerationConfig

    _verify_fields(f"{local}/config.json", config, AutoConfig.from_pretrained(local).to_dict())
    _verify_fields(f"{local}/generation_config.json", generation, GenerationConfig.from_pretrained(local).to_dict())
    _verify_weights(local, tensors)
    _verify_tokenizer(local, tokenizer, chat_template_kwargs)


def verify_upload(path: str, sizes: Mapping[str, int]) -> None:
    """Raises ExportError unless `path` (local or remote) holds files of these sizes in bytes."""
    filesystem, plain = file_system(path)
    for name, size in sizes.items():
        got = filesystem.info(f"{plain}/{name}")["size"]
        if got != size:
            raise ExportError(f"{path}/{name} has {got} bytes, expected {size}: the upload is incomplete; run it again")


def _verify_fields(path: str, expected: Mapping[str, Any], got: Mapping[str, Any]) -> None:
    # transformers gives `torch_dtype` back under its new name.
    got = {**got, "torch_dtype": str(got.get("dtype", got.get("torch_dtype"))).removeprefix("torch.")}
    for name, value in expected.items():
        if value is not None and got.get(name) != value:
            raise ExportError(
                f"{path}: transformers reads {name} = {got.get(name)!r}, expected {value!r}: correct the config.json "
                "and generation_config.json of the base model"
            )


def _verify_weights(local: str, expected: Mapping[str, np.ndarray]) -> None:
    got = hf_directory.StoredTensors(local)
    if expected.keys() != got.keys():
        raise ExportError(f"{local}: tensors {sorted(expected.keys() ^ got.keys())[:3]} are not on both sides")
    for name in expected:
        wanted, found = expected[name], got[name]
        if wanted.dtype != found.dtype or not np.array_equal(wanted, found):
            raise ExportError(
                f"{local}: tensor {name} read back is not the trained one; the disk may be full or faulty"
            )


def _verify_tokenizer(local: str, tokenizer: Any, kwargs: Mapping[str, Any]) -> None:
    from transformers import AutoTokenizer

    reloaded = AutoTokenizer.from_pretrained(local, local_files_only=True)
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
