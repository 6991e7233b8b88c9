"""The command that repeats this launch, in the environment that it has."""

from __future__ import annotations

import ast
import os
import shlex
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from marin_sft.execution import ray_environment
from marin_sft.redaction import looks_secret, shown_value

_OF_EXPERIMENTS = ("MARIN_SFT_SCALE",)  # read by ours, and changes what an experiment is
_USUAL = ("HOME", "USER", "PATH", "PWD", "TMPDIR", "RAY_ADDRESS", "MARIN_SFT_PREFIX", "MARIN_PREFIX")


def this_command(leaving_out: Collection[str] = ()) -> str:
    """With the variables that the script reads, as far as they may be shown. leaving_out: names of flags."""
    kept, left_out = [], False
    for word in sys.argv[1:]:
        if word.startswith("--"):
            left_out = word.removeprefix("--").partition("=")[0] in leaving_out
        if not left_out:
            kept.append(word)
    command = shlex.join(["python", sys.argv[0], *kept])
    launcher = os.environ.get(ray_environment.LAUNCHER)
    before = [launcher] if launcher else map(shlex.quote, _variables())  # ray_run passes the variables of its jobs
    return " ".join([*before, command])


def own_files() -> list[str]:
    """The script, and each module in its directory that it imported, but no installed ones."""
    script = os.path.abspath(sys.argv[0])
    root, package = os.path.dirname(script), os.path.dirname(os.path.dirname(__file__))
    modules = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    own = {file for file in modules if file and _is_below(file, root) and not _is_below(file, package)}
    return [file for file in sorted({script, *own}) if file.endswith(".py") and os.path.isfile(file)]


def _is_below(file: str, folder: str) -> bool:
    return os.path.abspath(file).startswith(f"{folder}/") and "/site-packages/" not in file


def _variables() -> Iterator[str]:
    """`NAME=value` for each variable of the environment that the script names."""
    named = {*_OF_EXPERIMENTS, *(text for file in own_files() for text in _texts_in(file))}
    for name in sorted(named.intersection(os.environ).difference(_USUAL)):
        value = os.environ[name]
        if not looks_secret(name) and shown_value(name, value) == value:
            yield f"{name}={value}"


def _texts_in(file: str) -> Iterator[str]:
    try:
        source = Path(file).read_text()
        tree = ast.parse(source if "environ" in source or "getenv" in source else "")
    except (OSError, SyntaxError, ValueError):  # edited since it was imported
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
