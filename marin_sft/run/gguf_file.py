"""`marin-sft gguf`: a model that exists, as a GGUF file with a Modelfile next to it."""

from __future__ import annotations

import os
import sys
import tempfile

from marin_sft.data.download import PROVENANCE
from marin_sft.data.files import Json
from marin_sft.disk import is_local
from marin_sft.errors import UserError
from marin_sft.execution.commits import FILES
from marin_sft.export.gguf.file import MODELFILE, license_of
from marin_sft.export.gguf.file import write_gguf as write_files
from marin_sft.paths import file_system, names_in
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.peft_directory import CONFIG as ADAPTER


def check_target(output: str, force: bool) -> None:
    """Raise UserError if the files may not be written."""
    if not output.endswith(".gguf"):
        raise UserError(f"--output: expected the name of a .gguf file, got {output}")
    folder = os.path.dirname(output) or "."
    if FILES in names_in(folder):
        raise UserError(f"--output: {folder} is the output of a step, which stays as it is; expected another directory")
    for path in (output, _modelfile(output)):
        filesystem, plain = file_system(path)
        if filesystem.isdir(plain):
            raise UserError(f"{path} is a directory; expected the name of a file to write")
        if not force and filesystem.exists(plain):
            raise UserError(f"{path}: exists already; give another name or directory, or --force to write over it")


def write(model: str, title: str, output: str, type: str | None) -> Json:
    """Write both files; each appears whole. What llama.cpp or Ollama do otherwise goes to stderr.

    Raises:
        ExportError: as `gguf.file.write_gguf`.
        UserError: the model is an adapter.
    """
    directory = ModelDirectory(model)
    if directory.json(ADAPTER) is not None:
        raise UserError(f"{model} is an adapter: give the output of export(), which merges it into its base")
    filesystem, plain = file_system(output)
    filesystem.makedirs(os.path.dirname(plain), exist_ok=True)
    # Next to the file: it is renamed, not copied, where it is local.
    parent = os.path.dirname(plain) if is_local(filesystem) else None
    with tempfile.TemporaryDirectory(dir=parent, prefix=".gguf-") as scratch, directory.whole() as local:
        written = os.path.join(scratch, os.path.basename(output))
        origin = directory.json(PROVENANCE)
        limits = write_files(local, type, title=title, origin=origin, license=license_of(directory), to=written)
        size = os.path.getsize(written)
        files = {path: os.path.join(scratch, os.path.basename(path)) for path in (output, _modelfile(output))}
        for path, made in files.items():
            if os.path.exists(made):
                filesystem.mv(made, path) if parent else filesystem.put_file(made, file_system(path)[1])
    for limit in limits:
        print(f"{output}: {limit}", file=sys.stderr)
    return {"output": output, "bytes": size, "limits": limits}


def _modelfile(output: str) -> str:
    return f"{os.path.dirname(output) or '.'}/{MODELFILE}"
