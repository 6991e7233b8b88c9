"""Output for people: the plan, live progress, the closing table. Bars and colours on a terminal, else plain lines."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from marin_sft import progress
from marin_sft.errors import InfrastructureLoss
from marin_sft.execution.catalog import in_parallel
from marin_sft.execution.claims import attempt_path, read_beat
from marin_sft.execution.differences import difference_text
from marin_sft.execution.live_output import LiveOutput
from marin_sft.execution.patience import no_patience
from marin_sft.execution.plan import Action, Plan, PlanItem
from marin_sft.execution.scheduler import StepResult
from marin_sft.execution.step import StepConfig
from marin_sft.execution.store import Store
from marin_sft.execution.tables import Cell, counted, duration_text, print_table
from marin_sft.execution.terminal import visible
from marin_sft.progress import figure_texts

_PLAIN_SECONDS = 15.0  # between two progress lines of a step, without a terminal
_SHOWN_RESULTS = 60  # with more steps, the closing table omits cached ones
_ANSI = re.compile(r"\x1b\[[0-9;:]*m")
_LARGEST_METRICS = 1 << 20  # bytes
_SHOWN_FIGURES = 3  # of an output's metrics.json, which lists the important ones first
_DROPPED = "dropped.jsonl"  # in an output: the rows that were dropped, and why
_NARROW = 120  # columns
_COLOURS = {
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


def print_plan(console: Console, plan: Plan) -> None:
    """One line per step: name, action, reason, path."""
    to_run = sum(item.action is not Action.SKIP for item in plan)
    steps = counted(len(plan.items), "step")
    console.print(Text.assemble(("Plan", "bold"), f": {steps}, {to_run} to run. Prefix {plan.store.prefix}"))
    short = console.width < _NARROW  # a path adds little to the step's name
    columns = ("step", "action", "reason", "fingerprint" if short else "path")
    print_table(console, columns, (_plan_row(item, short) for item in plan))
    for line in dict.fromkeys(filter(None, map(_advice, plan.to_do))):
        console.print(Text(line, style="dim"))


def _advice(item: PlanItem) -> str | None:
    step = item.node.step
    return step.config.advice(step.resources) if isinstance(step.config, StepConfig) else None


def _plan_row(item: PlanItem, short: bool) -> tuple[Cell, ...]:
    path = item.node.directory
    path = path.removeprefix(f"{item.node.name}-") if short else path
    return item.node.name, _coloured(item.action), _reason(item), path


def _reason(item: PlanItem) -> str:
    detail = "; ".join(map(difference_text, item.diff)) or item.detail
    return f"{item.reason} {detail}".rstrip()


def print_results(console: Console, store: Store, results: list[StepResult], seconds: float) -> None:
    """The closing table."""
    ran = [r for r in results if r.status in ("ran", "adopted")]
    failed = [r for r in results if r.status in ("failed", "blocked", "cancelled")]
    shown = results if len(results) <= _SHOWN_RESULTS else [*ran, *failed]
    columns = ("step", "result", "time", "figures", "output")
    if shown:
        print_table(console, columns, in_parallel(store, lambda result: _result_row(store, result), shown))
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


class LiveView:
    """Shows running steps: their output and, on a terminal, a progress bar each. It is the scheduler's listener.

    Progress comes from the beat of a step's claim, output from its log, so it does not matter where the step runs.

    elsewhere: steps run in other processes. In this process they would print their output themselves.
    """

    def __init__(self, console: Console, store: Store, elsewhere: bool) -> None:
        self._console = console
        self._store = store
        self._running: dict[str, tuple[PlanItem, int]] = {}
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._bars = _progress_bars(console) if elsewhere and console.is_terminal else None
        self._bar_of: dict[str, TaskID] = {}
        self._output = LiveOutput(store, self._show, self._print_shown) if elsewhere else None
        # A thread of its own, so that the scheduler does not wait for the screen.
        self._teller = ThreadPoolExecutor(1) if elsewhere else None
        self._told_of: list[Future[None]] = []
        self._lines: list[tuple[str, str]] = []

    def __enter__(self) -> LiveView:
        if self._bars:
            self._bars.start()
        if self._output:
            self._output.__enter__()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._teller:
            self._teller.shutdown()
        self._ended.set()
        self._thread.join()
        if self._output:
            self._output.__exit__()
        if self._bars:
            self._bars.stop()
        for told in self._told_of if kind is None else ():
            told.result()  # raises the error if it failed

    def started(self, item: PlanItem, claim: int) -> None:
        self._in_order(self._start, item, claim)

    def waiting(self, item: PlanItem) -> None:
        self._in_order(self._wait, item)

    def lost(self, item: PlanItem, loss: InfrastructureLoss) -> None:
        self._in_order(self._lose, item, loss)

    def finished(self, result: StepResult) -> None:
        self._in_order(self._finish, result)

    def _in_order(self, tell: Callable[..., None], *what: object) -> None:
        if self._teller:
            self._told_of.append(self._teller.submit(tell, *what))
        else:
            tell(*what)

    def _start(self, item: PlanItem, claim: int) -> None:
        name = item.node.name
        with self._lock:
            self._running[name] = (item, claim)
            self._told[name] = time.monotonic()
        if self._bars:
            self._bar_of[name] = self._bars.add_task(name, total=None, news="")
        else:
            self._console.print(Text(f"{_clock()} start  {name}"))
        if self._output:
            self._output.follow(name, f"{attempt_path(self._store, item.node.directory, claim)}/.log")

    def _wait(self, item: PlanItem) -> None:
        if self._output:
            self._output.stop(item.node.name)
        self._console.print(Text(f"{_clock()} wait   {item.node.name}: another launch is running it"))

    def _lose(self, item: PlanItem, loss: InfrastructureLoss) -> None:
        self._stop_showing(item.node.name)
        reason = visible(str(loss).splitlines()[0])
        self._console.print(Text(f"{_clock()} lost   {item.node.name}: {reason}; a new attempt begins"))

    def _stop_showing(self, name: str) -> None:
        with self._lock:
            self._running.pop(name, None)
        if self._output:
            self._output.stop(name)
        if self._bars and name in self._bar_of:
            self._bars.remove_task(self._bar_of.pop(name))

    def _finish(self, result: StepResult) -> None:
        name = result.item.node.name
        self._stop_showing(name)
        if result.status != "cached":
            took = f" in {duration_text(result.seconds)}" if result.seconds else ""
            self._console.print(Text(f"{_clock()} {result.status:6} {name}{took}", style=_COLOURS[result.status]))

    def _show(self, name: str, line: str) -> None:
        if self._bars and progress.is_text(line):
            return  # the bar shows it already
        self._lines.append((f"{name} | ", line))

    def _print_shown(self) -> None:
        """Print all lines of a poll at once, since each print redraws the bars."""
        lines, self._lines = self._lines, []
        if lines and self._console.is_terminal:
            shown = (Text.assemble((name, "dim"), Text.from_ansi(line)) for name, line in lines)
            self._console.print(Text("\n").join(shown))
        elif lines:
            self._console.out("\n".join(name + _ANSI.sub("", line) for name, line in lines), highlight=False)

    @no_patience()
    def _poll(self) -> None:
        while not self._ended.wait(self._store.beat_seconds):
            with self._lock:
                running = list(self._running.values())
            for item, claim in running:
                # An unreadable beat may be readable at the next poll, and a step may report invalid progress.
                with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                    news = read_beat(self._store, item.node.directory, claim).get("progress")
                    if news:
                        self._tell(item.node.name, progress.Progress(**news))

    def _tell(self, name: str, news: progress.Progress) -> None:
        if self._bars:
            if name in self._bar_of:
                self._bars.update(self._bar_of[name], completed=news.done, total=news.total, news=news.text())
        elif not self._output and time.monotonic() - self._told[name] > _PLAIN_SECONDS:
            self._told[name] = time.monotonic()
            self._console.print(Text(f"{_clock()}        {name}: {news.text()}"))


def _progress_bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[news]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


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


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _coloured(word: str) -> Text:
    return Text(str(word), style=_COLOURS[str(word)])
