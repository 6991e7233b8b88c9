"""`marin-sft serve-check`: an export in a server that people use, compared with ours."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from marin_sft.data.files import read_json
from marin_sft.errors import UserError
from marin_sft.evaluation.answerer import ADAPTER, note_on_base
from marin_sft.evaluation.served import served
from marin_sft.evaluation.step_configs import ServedConfig
from marin_sft.execution.commits import committed_files
from marin_sft.execution.stores import open_store
from marin_sft.execution.terminal import visible
from marin_sft.inputs import path_of
from marin_sft.run.verification import changes
from marin_sft.training.models.model_directory import ModelDirectory

_OPTIONS = (
    "engine",
    "python",
    "max_prompts",
    "max_new_tokens",
    "max_model_len",
    "dtype",
    "logprob_tolerance",
)


def check(model: str, base: str | None, tokenizer: str | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """The metrics. The table goes to stderr with --json, else to stdout. Raises what `served` raises."""
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    options |= {"model": model, "base": base, "tokenizer": tokenizer}
    prompts = {"prompts": os.fspath(path_of(arguments.prompts))} if arguments.prompts else {}
    if arguments.output and os.path.exists(f"{arguments.output}/metrics.json"):
        raise UserError(f"--output: {arguments.output} has the result of a check; expected another directory")
    if base and (note := note_on_base(model, base)):
        print(visible(note), file=sys.stderr)
    is_adapter = ModelDirectory(model).json(ADAPTER) is not None
    is_listed = not is_adapter and tokenizer is None and _is_as_exported(model)
    with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout), _output(arguments.output) as output:
        config = ServedConfig(prompts=prompts, output_path=output, **options)
        found = served.check(config, is_kept=arguments.output is not None)
        if not is_listed and not found.files.is_length_confirmed:
            print(f"context length: no file but config.json says that it is {found.lengths[0]}")
        print(f"details: {output}" if arguments.output else "--output DIR keeps all answers and the server's log")
        return dict(read_json(f"{output}/metrics.json"))


@contextlib.contextmanager
def _output(asked: str | None) -> Iterator[str]:
    if asked is not None:
        yield asked
        return
    with tempfile.TemporaryDirectory(prefix="serve-check-") as scratch:
        yield scratch


def _is_as_exported(model: str) -> bool:
    """Template and tokenizer are compared with the directory's own, which must be those that were exported. False: it
    has no list of them.

    Raises:
        UserError: a file is gone, or has changed since the export.
    """
    advice = "--tokenizer DIR, that of training, compares with it"
    store = open_store(os.path.dirname(model.rstrip("/")) or ".")
    exported = committed_files(store, model)
    if not exported:
        told = "has no list of what was exported, so its files are compared with each other only"
        print(f"{model} {told}; {advice}", file=sys.stderr)
        return False
    found = changes(exported, store.files(model)).items()
    changed = {path: how for path, how in found if how != "added" and not path.endswith(".md")}  # servers read no .md
    if changed:
        told = "; ".join(f"{path}: {how}" for path, how in changed.items())
        raise UserError(f"{model} is not as it was exported ({told}): export again, or, if you meant it, {advice}")
    return True
