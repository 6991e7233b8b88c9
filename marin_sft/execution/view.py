"""Output for people: the plan, the closing table, failures. For running steps, see `live_view`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from marin_sft.execution.catalog import in_parallel
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.differences import difference_text
from marin_sft.execution.plan import Action, Plan, PlanItem
from marin_sft.execution.results import StepResult
from marin_sft.execution.step import StepConfig
from marin_sft.execution.store import Store
from marin_sft.execution.tables import Cell, counted, duration_text, print_table
from marin_sft.progress import figure_texts

if TYPE_CHECKING:
    from marin_sft.execution.estimates import Estimates
    from marin_sft.execution.prices import Prices

_SHOWN_RESULTS = 60  # with more steps, the closing table omits cached ones
_LARGEST_METRICS = 1 << 20  # bytes
_SHOWN_FIGURES = 3  # of an output's metrics.json, which lists the important ones first
_DROPPED = "dropped.jsonl"  # in an output: the rows that were dropped, and why
_NARROW = 120  # columns
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
    known = estimates is not None and estimates.any_known
    shown = {
        "step": True,
        "action": True,
        "time": known,
        "cost": estimates is not None and known and estimates.prices is not None,
        "reason": True,
        "fingerprint": short and not known,
        "path": not short,
    }
    rows = (_plan_row(item, estimates) for item in plan)
    print_table(console, list(itertools.compress(shown, shown.values())), _columns(rows, list(shown.values())), "step")
    for line in estimates.lines() if estimates else ():
        console.print(Text(line))
    for line in dict.fromkeys(filter(None, map(_advice, plan.to_do))):
        console.print(Text(line, style="dim"))


def _advice(item: PlanItem) -> str | None:
    step = item.node.step
    return step.config.advice(step.resources) if isinstance(step.config, StepConfig) else None


def _columns(rows: Iterable[tuple[Cell, ...]], shown: Sequence[bool]) -> Iterator[tuple[Cell, ...]]:
    return (tuple(itertools.compress(row, shown)) for row in rows)


def _plan_row(item: PlanItem, estimates: Estimates | None) -> tuple[Cell, ...]:
    path, found = item.node.directory, estimates and estimates.of.get(item.node)
    times = estimate_texts(found.seconds, found.cost, estimates.prices) if estimates and found else ("", "")
    fingerprint = path.removeprefix(f"{item.node.name}-")
    return item.node.name, _coloured(item.action), *times, _reason(item), fingerprint, path


def estimate_texts(seconds: float | None, cost: float | None, prices: Prices | None) -> tuple[str, str]:
    """Time and cost, with "?" for what is unknown."""
    time = "?" if seconds is None else duration_text(seconds)
    return time, "?" if cost is None or prices is None else prices.text(cost)


def _reason(item: PlanItem) -> str:
    detail = "; ".join(map(difference_text, item.diff)) or item.detail
    return f"{item.reason} {detail}".rstrip()


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
    figures = _figures(store, output) if output else ""
    took = duration_text(result.seconds) if result.status in ("ran", "failed") else ""
    return result.item.node.name, _coloured(result.status), took, figures, _relative(store, output)


def print_failures(
    console: Console, store: Store, results: list[StepResult], command: str, takes_flags: bool = True
) -> None:
    """For each failure: the error, the last frame in the user's code, the log, and the command to rerun the step.

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


def result_output(store: Store, result: StepResult) -> str | None:
    """The path of a result's committed attempt."""
    if result.commit is None:
        return None
    return attempt_path(store, result.item.node.directory, result.commit.attempt)


def _figures(store: Store, output: str) -> str:
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
