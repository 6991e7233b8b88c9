"""The steps of an experiment file, read without running one."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from marin_sft.data.step_configs import TokenizeConfig
from marin_sft.errors import UserError
from marin_sft.evaluation.exports import ExportEvaluations
from marin_sft.execution.configs import references, resolve
from marin_sft.execution.executor import Executor, ExecutorFlags, Run
from marin_sft.execution.step import AnyStep, EarlierAttempts, ExecutorStep, InputName, OutputName
from marin_sft.nearest import listed, nearest_text
from marin_sft.paths import nearest_path
from marin_sft.run.script import run_script
from marin_sft.sweeps.sweep import Sweep


def tokenization(script: str, name: str | None, prefix: str) -> TokenizeConfig:
    """The config of an experiment's tokenize step, with its inputs as paths under `prefix`.

    name: the step; None if there is only one.

    Raises:
        UserError: there is no such file or step, or an input has no output yet.
    """
    steps = {step.name: step for step in steps_of(script) if isinstance(step.config, TokenizeConfig)}
    if not steps:
        raise UserError(
            f"{script}: no tokenize step; expected one in a variable of the file, or among the inputs of such a step"
        )
    if name is None and len(steps) > 1:
        raise UserError(f"{script}: {len(steps)} tokenize steps; name one of them: {listed(sorted(steps))}")
    step = steps.get(name or next(iter(steps)))
    if step is None:
        raise UserError(f"{script}: no tokenize step {name!r}{nearest_text(str(name), sorted(steps))}")
    config = resolved_config(script, step, prefix)
    assert isinstance(config, TokenizeConfig)
    return config


def resolved_config(script: str, step: AnyStep, prefix: str) -> object:
    """The config of a step of the file, with its inputs as paths under `prefix`.

    Raises:
        UserError: an input has no output yet.
    """
    run = Executor(ExecutorFlags(prefix=prefix)).plan([step])
    return resolve(step.config, lambda leaf: _path(leaf, run, script))


def steps_of(script: str) -> Iterator[AnyStep]:
    """All steps in variables of the file, the tables of its sweeps and evaluations of exports, and all their inputs.

    Raises:
        UserError: there is no such file.
    """
    if not os.path.isfile(script):
        raise UserError(f"{script!r}: no such file; expected the file of an experiment{nearest_path(script)}")
    own = sys.argv
    sys.argv = [script, "--dry_run"]  # for a file that runs its steps without asking for its own name
    try:
        open_steps = list(_steps_in(run_script(script, "experiment")))
    finally:
        sys.argv = own
    seen: set[int] = set()
    while open_steps:
        step = open_steps.pop()
        if id(step) not in seen:
            seen.add(id(step))
            yield step
            open_steps += [used.step for _, used in references(step.config) if used.step is not None]


def _steps_in(value: object) -> Iterator[AnyStep]:
    if isinstance(value, ExecutorStep):
        yield value
    elif isinstance(value, InputName) and value.step is not None:
        yield value.step
    elif isinstance(value, Sweep | ExportEvaluations):
        yield value.table
    elif isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str | bytes)):
        for child in value.values() if isinstance(value, Mapping) else value:
            yield from _steps_in(child)


def _path(leaf: object, run: Run, script: str) -> object:
    """The value in the step's config when it runs."""
    if isinstance(leaf, OutputName | EarlierAttempts):
        return ""
    if isinstance(leaf, PurePath):
        return str(leaf)
    if isinstance(leaf, ExecutorStep):
        leaf = InputName(leaf, None)
    if not isinstance(leaf, InputName):
        return leaf
    if leaf.step is None:
        return run.plan.store.path(leaf.name or "")
    output = run.output_path(leaf.step, leaf.name)
    if output is None:
        command = shlex.join(["python", script, "--run_only", f"^{leaf.step.name}$"])
        raise UserError(f"{leaf.step.name} has no output yet, but its rows or tokenizer are needed; run it: {command}")
    return output
