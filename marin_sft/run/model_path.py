"""Where the model is that a command names: a directory, local or remote, or a step whose output it is."""

from __future__ import annotations

import os

from marin_sft.errors import NoSuchStep, UserError
from marin_sft.paths import file_system, names_in
from marin_sft.run.context import Context, output_in

_MARKS = ("config.json", "adapter_config.json")
_DEPTH = 3


def find_model(context: Context, text: str) -> str:
    """The directory of a model or adapter.

    Raises:
        UserError: there is no such directory or step, or it holds no model; with those that are below it.
    """
    path = text if "://" in text else os.path.expanduser(text)
    if os.path.isfile(path):
        raise UserError(f"{path} is a file: expected the directory of a model in safetensors{_of_gguf([path])}")
    names = names_in(path)
    remote = "://" in text and not text.startswith(f"{context.prefix}/")
    if not names and (remote or os.path.isabs(path) or text.startswith((".", "~"))):
        raise UserError(
            f"{path} {'is empty' if os.path.isdir(path) else 'does not exist'}: expected a model's directory"
        )
    if not names or (_is_step(names) and not _is_model(names)):
        path = output_in(path) if names else _output(context, text)
        names = names_in(path)
    if not _is_model(names):
        raise UserError(f"{path} is no model: it has neither {' nor '.join(_MARKS)}{_of_gguf(names)}{_hint(path)}")
    return path


def find_tokenizer(context: Context, text: str) -> str:
    """The directory of a tokenizer, local or remote, or the output of a step.

    Raises:
        UserError: the step has no output, or nothing has this name.
    """
    path = text if "://" in text else os.path.expanduser(text)
    if names := names_in(path):
        return output_in(path) if _is_step(names) else path
    try:
        return context.output(text)[1]
    except NoSuchStep as error:
        raise UserError(f"no tokenizer {text!r}: no such directory, and {error}") from error


def _of_gguf(names: list[str]) -> str:
    """What to do with a GGUF file instead of a model."""
    is_there = any(name.endswith(".gguf") for name in names)
    return "; a GGUF file alone cannot be read here: give the export that it was made of" if is_there else ""


def _output(context: Context, text: str) -> str:
    try:
        return context.output(text)[1]
    except NoSuchStep as error:
        raise UserError(
            f"no directory {text!r}, local or remote (a hub id becomes one with: hf download ID --local-dir "
            f"DIRECTORY); and as a step: {error}"
        ) from error


def _is_model(names: list[str]) -> bool:
    return any(mark in names for mark in _MARKS)


def _is_step(names: list[str]) -> bool:
    return "commits" in names


def _hint(path: str) -> str:
    """Models below it."""
    filesystem, plain = file_system(path)
    there = (str(file) for file in filesystem.find(plain, maxdepth=_DEPTH))
    below = sorted({os.path.dirname(file) for file in there if os.path.basename(file) in _MARKS})
    scheme = f"{path.partition('://')[0]}://" if "://" in path else ""
    return f"; below it are {', '.join(scheme + each for each in below[-5:])}" if below else ""
