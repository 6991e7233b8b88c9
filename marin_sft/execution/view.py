"""Output for people: the plan, the closing table, failures. For running steps, see `live_view`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from marin_sft.execution.catalog import in_parallel
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.differences import difference_text
from marin_sft.execution.plan import Action, Plan, PlanItem, Reason
from marin_sft.execution.results import StepResult
from marin_sft.execution.step import StepConfig
from marin_sft.execution.store import Store
from marin_sft.execution.tables import Cell, cost_text, counted, duration_text, print_table, shortened
from marin_sft.progress import figure_texts

if TYPE_CHECKING:
    from marin_sft.execution.estimates import Estimates

_SHOWN_RESULTS = 60  # with more steps, the closing table omits cached ones
_LARGEST_METRICS = 1 << 20  # bytes
_SHOWN_FIGURES = 3  # of an output's metrics.json, which lists the important ones first
_DROPPED = "dropped.jsonl"  # in an output: the rows that were dropped, and why
_NARROW = 120  # columns
_LONGEST_ERROR = 150  # characters: two lines of a narrow terminal
COLOURS = {
    "RUN": "bold cyan",
    "IF_CHANGED": "cyan",
    "WAIT": "yellow",
    "SKIP": "dim",
    "ran": "green",
    "adopted": "green",
    "cached": "dim",
    "unneeded": "dim",
    "failed": "bold red",
    "blocked": "red",
    "cancelled": "yellow",
}


def print_plan(console: Console, plan: Plan, estimates: Estimates | None) -> None:
    """One line per step: name, action, estimates as far as there are some, reason, path."""
    to_run = sum(item.action is not Action.SKIP for item in plan)
    steps = counted(len(plan.items), "step")
    console.print(Text.assemble(("Plan", "bold"), f": {steps}, {to_run} to run. Prefix {plan.store.prefix}"))
    short = console.width < _NARROW  # a path adds little to the step's name
    known = estimates if estimates and estimates.any_known else None
    columns = ("step", "action", *_time_columns(known), "reason", "fingerprint" if short else "path")
    rows = [_plan_row(item, known, short) for item in plan]
    if short and (known or _width(rows) > console.width):
        _print_in_lines(console, plan, known)
    else:
        print_table(console, columns, rows, "step")
    for line in estimates.lines() if estimates else ():
        console.print(Text(line))
    for line in dict.fromkeys(filter(None, map(_advice, plan.to_do))):
        console.print(Text(line, style="dim"))


def _advice(item: PlanItem) -> str | None:
    step = item.node.step
    return step.config.advice(step.resources) if isinstance(step.config, StepConfig) else None


def _time_columns(estimates: Estimates | None) -> tuple[str, ...]:
    return () if estimates is None else ("time", "cost") if estimates.prices else ("time",)


def _plan_row(item: PlanItem, estimates: Estimates | None, short: bool) -> tuple[Cell, ...]:
    path = item.node.directory
    path = path.removeprefix(f"{item.node.name}-") if short else path
    return (
        item.node.name,
        _coloured(item.action),
        *_times(item, estimates),
        f"{item.reason} {_detail(item)}".rstrip(),
        path,
    )


def _width(rows: Sequence[Sequence[Cell]]) -> int:
    """Columns of a table of these rows that is not folded."""
    columns = list(zip(*rows, strict=True))
    return sum(max(len(cell) for cell in column) for column in columns) + 2 * (len(columns) - 1)


def _times(item: PlanItem, estimates: Estimates | None) -> tuple[str, ...]:
    """The cells of `_time_columns`; "?" for what is unknown."""
    columns, found = _time_columns(estimates), estimates and estimates.of.get(item.node)
    if not found:
        return ("",) * len(columns)
    time = "?" if found.seconds is None else duration_text(found.seconds)
    return (time, "?" if found.cost is None else cost_text(found.cost))[: len(columns)]


def _print_in_lines(console: Console, plan: Plan, estimates: Estimates | None) -> None:
    """For a narrow terminal: what a reason says beyond its word is on a line of its own, and said once."""
    columns = ("step", "action", *_time_columns(estimates), "reason")
    longest = console.width // 2
    rows = [
        (shortened(item.node.name, longest), str(item.action), *_times(item, estimates), str(item.reason))
        for item in plan
    ]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    console.print(Text("  ".join(map(str.ljust, columns, widths)).rstrip(), style="bold"))
    said = {""}
    for item, row in zip(plan, rows, strict=True):
        cells = list(map(str.ljust, row, widths))
        console.print(Text.assemble(cells[0], "  ", (cells[1], COLOURS[row[1]]), "  ", "  ".join(cells[2:]).rstrip()))
        if (detail := _detail(item)) not in said:
            said.add(detail)
            console.print(Padding(Text(detail, style="dim"), (0, 0, 0, 2)))


def _detail(item: PlanItem) -> str:
    detail = "; ".join(map(difference_text, item.diff)) or item.detail
    if item.reason is Reason.RETRY and len(detail) > _LONGEST_ERROR:  # `marin-sft why` has all of it
        return f"{detail[: _LONGEST_ERROR - 3]}..."
    return detail


def print_results(console: Console, store: Store, results: list[StepResult], seconds: float) -> None:
    """The closing table."""
    ran = [r for r in results if r.status in ("ran", "adopted")]
    failed = [r for r in results if r.status in ("failed", "blocked", "cancelled")]
    shown = results if len(results) <= _SHOWN_RESULTS else [*ran, *failed]
    columns = ("step", "result", "time", "figures", *(() if console.width < _NARROW else ("output",)))
    if shown:
        rows = in_parallel(store, lambda result: _result_row(store, result)[: len(columns)], shown)
        print_table(console, columns, rows, "step")
    for result in ran:
        output = result_output(store, result)
        if output and store.size(f"{output}/{_DROPPED}"):
            console.print(Text(f"{result.item.node.name}: rows were dropped; some of them are in {output}/{_DROPPED}"))
    cached = sum(r.status == "cached" for r in results)
    console.print(
        f"{counted(len(ran), 'step')} run, {cached} cached, {len(failed)} not finished, in {duration_text(seconds)}. "
        f"Outputs are in {store.prefix}"
    )


def _result_row(store: Store, result: StepResult) -> tuple[Cell, ...]:
    output = result_output(store, result)
    figures = figures_text(store, output) if output else ""
    took = duration_text(result.seconds) if result.status in ("ran", "failed") else ""
    return result.item.node.name, _coloured(result.status), took, figures, _relative(store, output)


def print_failures(
    console: Console, store: Store, results: list[StepResult], command: str, takes_flags: bool = True
) -> None:
    """For each failure: the error, the last frame in the user's code, the log, and the command to rerun the step. Then
    what the steps advise that waited for one, and the tables of those that are there.

    takes_flags: whether the command takes `--run_only`.
    """
    for result in results:
        if result.failure is None:
            continue
        name = result.item.node.name
        console.print(Text(f"\n{name} failed: {result.failure.error}", style="bold red"))
        if result.failure.location:
            console.print(Text(f"  at    {result.failure.location}"))
        if result.attempt:
            console.print(Text(f"  log   {attempt_path(store, result.item.node.directory, result.attempt)}/.log"))
        console.print(Text(f"  again {command} --run_only '^{name}$'" if takes_flags else f"  again {command}"))
    told: set[str] = set()
    for result in results:
        config = result.item.node.step.config
        advice = config.when_blocked() if result.status == "blocked" and isinstance(config, StepConfig) else None
        if advice and advice not in told:
            told.add(advice)
            console.print(Text(f"\n{result.item.node.name} was not made: {advice}"))
    for result in results:
        config, output = result.item.node.step.config, result_output(store, result)
        if output and isinstance(config, StepConfig) and config.TABLE:
            table = (store.read(f"{output}/{config.TABLE}") or b"").decode(errors="replace").rstrip()
            console.print(Text(f"\n{result.item.node.name}\n{table}"))


def result_output(store: Store, result: StepResult) -> str | None:
    """The path of a result's committed attempt."""
    if result.commit is None:
        return None
    return attempt_path(store, result.item.node.directory, result.commit.attempt)


def figures_text(store: Store, output: str) -> str:
    """The first top-level numbers in the output's metrics.json, with which a step shows its result.

    The file is untrusted: a repository on a hub may contain one of that name.
    """
    try:
        found = store.read_from(f"{output}/metrics.json", 0, _LARGEST_METRICS + 1)
        if not found:
            return ""
        if len(found) > _LARGEST_METRICS:
            return "metrics.json is too large to show"
        metrics = json.loads(found)
    except (OSError, ValueError, RecursionError):
        return "metrics.json cannot be read"
    if not isinstance(metrics, dict):
        return "metrics.json is not an object"
    numbers = ((k, v) for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool))
    return ", ".join(figure_texts(dict(itertools.islice(numbers, _SHOWN_FIGURES))))


def _relative(store: Store, path: str | None) -> str:
    return path.removeprefix(f"{store.prefix}/") if path else ""


def _coloured(word: str) -> Text:
    return Text(str(word), style=COLOURS[str(word)])
