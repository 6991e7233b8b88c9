"""A plan that was written to a file, as text for those who review it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from marin_sft.execution.differences import difference_text
from marin_sft.execution.tables import Cell, counted, duration_text, print_table
from marin_sft.run.context import Context
from marin_sft.run.launches import print_facts

if TYPE_CHECKING:
    from marin_sft.execution.plan_file import PlanFile, PlannedStep


def show_plan(context: Context) -> None:
    """See `command.show`."""
    from marin_sft.execution.plan_file import read_plan  # few look at such a file

    file = context.arguments.file
    planned = read_plan(file)
    context.say(asdict(planned), lambda: print_planned(context.console, file, planned))


def print_planned(console: Console, file: str, planned: PlanFile) -> None:
    """What it was made from, one line per step, and what it will take."""
    to_run = sum(step.action != "SKIP" for step in planned.steps)
    console.print(
        Text.assemble(("Plan", "bold"), f" in {file}: {counted(len(planned.steps), 'step')}, {to_run} to run")
    )
    chosen = " ".join(f"--{name} {value}" for name, value in planned.flags.items() if value not in ([], False, True))
    facts = {"prefix": planned.prefix, "code": planned.git_commit, "flags": chosen, "from": planned.command}
    print_facts(console, [(f"  {name}", str(value)) for name, value in facts.items() if value])
    known = any(step.estimate for step in planned.steps)
    columns = ("step", "action", *(("time",) if known else ()), "reason")
    print_table(console, columns, [_row(step, known) for step in planned.steps], "step")
    for line in planned.summary:
        console.print(Text(line))
    console.print(Text(f"To carry it out: {planned.command} --plan {file}"))


def _row(step: PlannedStep, known: bool) -> tuple[Cell, ...]:
    from marin_sft.execution.view import COLOURS  # as in `show`

    seconds = (step.estimate or {}).get("seconds")
    time = duration_text(seconds) if isinstance(seconds, int | float) else "?" if step.estimate else ""
    differences = [difference_text((str(name), old, new)) for name, old, new in step.diff]
    reason = f"{step.reason} {'; '.join(differences) or step.detail}".rstrip()
    return step.name, Text(step.action, style=COLOURS.get(step.action, "")), *((time,) if known else ()), reason
