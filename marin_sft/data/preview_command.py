"""The command that shows how rows are read."""

from __future__ import annotations

import dataclasses
import json
import shlex

from marin_sft.data.formats import ChatLmDatasetFormat, LmDatasetFormat

_FLAGS = ("columns", "role_map", "train_on")


def preview_command(data: str, tokenizer: str, format: LmDatasetFormat | None = None) -> str:
    """`marin-sft preview` for rows as a step reads them. A format with its own function cannot be given as flags:
    then the command names an experiment and a step."""
    chat = None if format is None else format.as_chat()
    if chat is not None and chat.formatting_func is not None:
        return "marin-sft preview EXPERIMENT.py tokenized/NAME"
    words = ["marin-sft", "preview", "--data", data, "--tokenizer", tokenizer]
    said = {} if chat is None else {f.name: getattr(chat, f.name) for f in dataclasses.fields(chat) if _said(chat, f)}
    if (shape := said.pop("shape", None)) is not None:
        words += ["--format", shape]
    for name in _FLAGS:
        if name in said:
            words += [f"--{name}", _text(said.pop(name))]
    if said:
        words += ["--format_options", json.dumps(said, ensure_ascii=False)]
    return shlex.join(words)


def _said(chat: ChatLmDatasetFormat, field: dataclasses.Field[object]) -> bool:
    """Whether a field of a format differs from its default."""
    made = field.default_factory
    default = field.default if made is dataclasses.MISSING else made()
    return bool(getattr(chat, field.name) != default) and field.name != "pack"


def _text(value: str | dict[str, str]) -> str:
    if isinstance(value, str):
        return value
    simple = not any(c in text for pair in value.items() for text in pair for c in ',={["') and value
    return ",".join(f"{a}={b}" for a, b in value.items()) if simple else json.dumps(value, ensure_ascii=False)
