"""`marin-sft serve-check`: an export in a server that people use, compared with ours."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from typing import Any

from marin_sft.data.files import read_json
from marin_sft.evaluation.served.served import served
from marin_sft.evaluation.step_configs import ServedConfig
from marin_sft.inputs import path_of


def check(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The metrics. The table goes to stderr with --json, else to stdout. Raises what `served` raises."""
    named = ("engine", "python", "tokenizer", "max_prompts", "max_new_tokens", "max_model_len", "dtype")
    options = {name: getattr(arguments, name) for name in named}
    prompts = {"prompts": os.fspath(path_of(arguments.prompts))} if arguments.prompts else {}
    output = arguments.output or tempfile.mkdtemp(prefix="serve-check-")
    with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        served(ServedConfig(model=model, prompts=prompts, output_path=output, **options))
        print(f"details: {output}")
    return dict(read_json(f"{output}/metrics.json"))
