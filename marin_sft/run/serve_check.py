"""`marin-sft serve-check`: an export in a server that people use, compared with ours."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from typing import Any

from marin_sft.data.files import read_json
from marin_sft.errors import UserError
from marin_sft.evaluation.served.served import served
from marin_sft.evaluation.step_configs import ServedConfig
from marin_sft.execution.commits import committed_files
from marin_sft.execution.stores import open_store
from marin_sft.inputs import path_of
from marin_sft.run.verification import changes

_OPTIONS = (
    "engine",
    "python",
    "tokenizer",
    "max_prompts",
    "max_new_tokens",
    "max_model_len",
    "dtype",
    "logprob_tolerance",
)


def check(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The metrics. The table goes to stderr with --json, else to stdout. Raises what `served` raises."""
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    prompts = {"prompts": os.fspath(path_of(arguments.prompts))} if arguments.prompts else {}
    output = arguments.output or tempfile.mkdtemp(prefix="serve-check-")
    if os.path.exists(f"{output}/metrics.json"):
        raise UserError(f"--output: {output} has the result of a check; expected another directory")
    if not arguments.tokenizer:
        _check_as_exported(model)
    with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        served(ServedConfig(model=model, prompts=prompts, output_path=output, **options))
        print(f"details: {output}")
    return dict(read_json(f"{output}/metrics.json"))


def _check_as_exported(model: str) -> None:
    """Template and tokenizer are compared with the directory's own, which must be those that were exported.

    Raises:
        UserError: a file is gone, or has changed since the export.
    """
    advice = "--tokenizer DIR, that of training, compares with it"
    store = open_store(os.path.dirname(model.rstrip("/")) or ".")
    exported = committed_files(store, model)
    if not exported:
        told = "has no list of what was exported, so template and tokenizer are compared with its own"
        print(f"{model} {told}; {advice}", file=sys.stderr)
        return
    found = changes(exported, store.files(model)).items()
    changed = {path: how for path, how in found if how != "added" and not path.endswith(".md")}  # servers read no .md
    if changed:
        told = "; ".join(f"{path}: {how}" for path, how in changed.items())
        raise UserError(f"{model} is not as it was exported ({told}): export again, or, if you meant it, {advice}")
