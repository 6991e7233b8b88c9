"""What the arguments of `marin-sft lint` ask for: rows by component, test sets and thresholds."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from marin_sft.data.formats import LmDatasetFormat
from marin_sft.data.lint.findings import REPORT, THRESHOLDS
from marin_sft.data.lint.step import ROWS
from marin_sft.data.rows.row_files import find_files
from marin_sft.data.step_configs import LintConfig, MixtureConfig, RowSource, TokenizeConfig, TransformConfig
from marin_sft.errors import DataError, UserError
from marin_sft.execution.catalog import Found
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.executor import Executor, ExecutorFlags
from marin_sft.execution.flags import default_prefix
from marin_sft.execution.step import InputName
from marin_sft.execution.terminal import visible
from marin_sft.nearest import nearest_text
from marin_sft.paths import find, local_path, nearest_path
from marin_sft.recipes.sources import is_hub_id, rows_of
from marin_sft.run.context import Context
from marin_sft.run.experiment import resolved_config, steps_of
from marin_sft.run.preview_request import FORMAT_FLAGS, format_of
from marin_sft.steps import lint

_NAMED = re.compile(r"([A-Za-z][\w.-]*)=(.+)", re.DOTALL)
_URL = re.compile(r"[a-z][a-z0-9+]*://")
_OF_EXPERIMENT = (MixtureConfig, TokenizeConfig, TransformConfig)


def read_request(context: Context, output: str) -> LintConfig:
    """The config of a lint step for the arguments. output: a directory for its scratch files.

    Raises:
        UserError: no such data, step, format or finding.
    """
    arguments = context.arguments
    first, *others = arguments.data
    limits: dict[str, Any] = {"fail_above": thresholds(arguments.fail_above or []), "output_path": output}
    tests = _sources(context, arguments.test or [], None)
    if not first.endswith(".py"):
        components = _sources(context, arguments.data, format_of(arguments))
        _refuse_twice({**_files(components), **_files(tests, "--test ")})
        return LintConfig(components, tests, **limits)
    if given := [f"--{flag}" for flag in FORMAT_FLAGS if getattr(arguments, flag) is not None]:
        raise UserError(f"lint {first}: got {', '.join(given)}, which its steps already set")
    steps = _steps(first, others)
    found = resolved_config(first, lint("command", steps), arguments.prefix or default_prefix())
    assert isinstance(found, LintConfig)
    components = _each_once(found.components)
    of_components, of_tests = _files(components) if tests else {}, _files(tests, "--test ")
    for name, test in itertools.product(of_components, of_tests):
        _refuse_twice({name: of_components[name], test: of_tests[test]})
    return LintConfig(components, tests, found.tokenizer, **limits)


def _files(sources: Mapping[str, RowSource], before: str = "") -> dict[str, set[str]]:
    """The files of each source. before: what its name is told with."""
    return {
        f"{before}{name}": {_real(file.path) for file in find_files(source.paths)} for name, source in sources.items()
    }


def _real(path: str) -> str:
    local = local_path(path)
    return path if local is None else os.path.realpath(local)


def _refuse_twice(files: Mapping[str, set[str]]) -> None:
    """Raise UserError for a file that two arguments name: all its rows would be copies of themselves, or leaks."""
    for (name, of_name), (other, of_other) in itertools.combinations(files.items(), 2):
        if both := of_name & of_other:
            raise UserError(
                f"{name} and {other} both have {min(both)}, so each of its rows would be found in itself; expected "
                "each file in one of them"
            )


def _each_once(components: Mapping[str, RowSource]) -> dict[str, RowSource]:
    """Without those that read the same as another, such as for a second tokenizer: all their rows would be copies."""
    kept: dict[str, RowSource] = {}
    for name, source in components.items():
        first = next((other for other, seen in kept.items() if seen == source), None)
        if first is None:
            kept[name] = source
        else:
            print(visible(f"{name}: the same rows as {first}, looked at once"), file=sys.stderr)
    return kept


def thresholds(words: Iterable[str]) -> dict[str, float]:
    """`NAME=SHARE`, several in one word with commas."""
    found = {}
    for word in ",".join(words).split(",") if words else ():
        name, equals, share = word.strip().partition("=")
        if name not in THRESHOLDS:
            raise UserError(
                f"--fail_above: no finding {name!r}{nearest_text(name, THRESHOLDS)}; expected one of "
                f"{', '.join(THRESHOLDS)}"
            )
        try:
            found[name] = float(share)
        except ValueError:
            equals = ""
        if not equals:
            raise UserError(f"--fail_above {word!r}: expected a share of the rows, as in {name}=0.01")
    return found


def _steps(script: str, names: list[str]) -> dict[str, Any]:
    """The steps of an experiment whose rows to look at, by name: the named ones, else what its mixtures train on."""
    known = {step.name: step for step in steps_of(script) if isinstance(step.config, _OF_EXPERIMENT)}
    for name in names:
        if name not in known:
            raise UserError(
                f"{script}: no step {name!r} that has rows{nearest_text(name, sorted(known))}; expected a transform, "
                f"tokenize or mixture step: {', '.join(sorted(known)) or 'there is none'}"
            )
    chosen = names or [name for name, step in known.items() if isinstance(step.config, TokenizeConfig)]
    if not chosen:
        raise UserError(f"{script}: no tokenize step; name a step that has rows: {', '.join(sorted(known)) or 'none'}")
    found: dict[str, Any] = {}
    for name in sorted(set(chosen)):
        config = known[name].config
        if isinstance(config, MixtureConfig):
            found |= {part: config.data.tokenized[part] for part in config.data.training or config.data.tokenized}
        else:
            short = name.rpartition("/")[2]
            found[name if short in found else short] = known[name]
    return found


def _sources(context: Context, words: Iterable[str], format: LmDatasetFormat | None) -> dict[str, RowSource]:
    """Rows by component. Each word is `DATA` or `NAME=DATA`; without a name, one is made of its path."""
    found: dict[str, RowSource] = {}
    for word in words:
        named = None if _is_data(word) else _NAMED.fullmatch(word)
        name, data = named.groups() if named else (None, word)
        path = _path(context, data)
        parts = [part for part in data.rstrip("/").split("/") if part]
        short = parts[-1].partition(".")[0].strip("*") if parts else ""
        choices = [name] if name else [short, "/".join(parts[-2:]), data]
        name = next((choice for choice in choices if choice and choice not in found), None)
        if name is None:
            raise UserError(f"{word}: named twice; expected each name and each path once")
        found[name] = RowSource((path,)) if format is None else RowSource((path,), format)
    return found


def _is_data(word: str) -> bool:
    if "://" in word:
        return _URL.match(word) is not None
    path = os.path.expanduser(word)
    return bool(word.strip()) and (os.path.exists(path) or bool(find(path).names))


def _path(context: Context, data: str) -> str:
    """Where rows are: a path or a URL, the output of a step, or a dataset of the hub, which is downloaded."""
    if _is_data(data):
        return os.path.expanduser(data)
    step = None
    with contextlib.suppress(UserError):
        step = context.step(data)
    if step is not None:
        return _output(context, step, data)
    if is_hub_id(data):
        return _from_hub(context.arguments, data)
    raise UserError(
        f"{data!r}: no such file, directory or glob, no step under {context.arguments.prefix or default_prefix()}, and "
        f"no dataset id org/name{nearest_path(data)}"
    )


def _output(context: Context, found: Found, text: str) -> str:
    if found.state.commit is None:
        raise UserError(f"{found.directory} has no committed output, so there are no rows to look at")
    path = attempt_path(context.store, found.directory, found.state.commit.attempt)
    kind = found.state.commit.payload["kind"]
    if kind == "lint":
        raise UserError(
            f"{found.directory} holds findings, not rows: they are in {path}/{REPORT}, and marin-sft report {text} "
            "shows them"
        )
    if kind in ("tokenize", "mixture"):
        raise UserError(
            f"{found.directory} holds tokens, not rows; look at the rows that it is made from: "
            f"marin-sft lint EXPERIMENT.py {text}"
        )
    return f"{path}/{ROWS}" if kind == "transform" else path


def _from_hub(arguments: argparse.Namespace, id: str) -> str:
    """Download a dataset by the steps that a training would use, so that it is there once."""
    rows = rows_of(id, arguments.split)
    assert isinstance(rows, InputName) and rows.step is not None
    prefix = arguments.prefix or default_prefix()
    with contextlib.redirect_stdout(sys.stderr):
        run = Executor(ExecutorFlags(prefix=prefix, backend="inline")).run([rows.step])
    output = run.output_path(rows.step, rows.name)
    if output is None:
        raise DataError(f"{id}: its rows could not be fetched; see above")
    return output
