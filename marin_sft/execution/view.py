"""What people see: the plan, live progress, the closing table. Bars and colours on a terminal, else plain lines."""

from __future__ import annotations

import json
import sys
import threading
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from marin_sft import progress
from marin_sft.execution.attempt import attempt_path, beat_path
from marin_sft.execution.plan import Action, Plan, PlanItem, difference_text
from marin_sft.execution.scheduler import StepResult
from marin_sft.execution.store import Store
from marin_sft.progress import figure_texts

_PLAIN_SECONDS = 15.0  # between two progress lines of one step off a terminal
_SHOWN_RESULTS = 60  # beyond so many steps the closing table leaves out the cached ones
_SHOWN_FIGURES = 3  # of an output's metrics.json: its author puts the telling ones first
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


def make_console() -> Console:
    """The terminal as it is; off a terminal lines are as long as they need to be, so that they can be searched."""
    return Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 10_000, highlight=False)


def print_plan(console: Console, plan: Plan) -> None:
    """One line per step: name, action, reason, path."""
    to_run = sum(item.action is not Action.SKIP for item in plan)
    console.print(f"[bold]Plan[/bold]: {_count(len(plan.items), 'step')}, {to_run} to run. Prefix {plan.store.prefix}")
    table = _table("step", "action", "reason", "path")
    for item in plan:
        table.add_row(item.node.name, _coloured(item.action), _reason(item), item.node.directory)
    console.print(table)


def _reason(item: PlanItem) -> str:
    detail = "; ".join(map(difference_text, item.diff)) or item.detail
    return f"{item.reason} {detail}".rstrip()


def print_results(console: Console, store: Store, results: list[StepResult], seconds: float) -> None:
    """The closing table, then what to know of each failure."""
    ran = [r for r in results if r.status in ("ran", "adopted")]
    failed = [r for r in results if r.status in ("failed", "blocked", "cancelled")]
    shown = results if len(results) <= _SHOWN_RESULTS else [*ran, *failed]
    table = _table("step", "result", "time", "figures", "output")
    for result in shown:
        output = result_output(store, result)
        figures = _figures(store, output) if output else ""
        took = _duration(result.seconds) if result.status in ("ran", "failed") else ""
        table.add_row(result.item.node.name, _coloured(result.status), took, figures, _relative(store, output))
    console.print(table)
    cached = sum(r.status == "cached" for r in results)
    console.print(
        f"{_count(len(ran), 'step')} run, {cached} cached, {len(failed)} not finished, in {_duration(seconds)}. "
        f"Outputs lie in {store.prefix}"
    )


def print_failures(console: Console, store: Store, results: list[StepResult], command: str) -> None:
    """For each failure: the error, the last frame in the user's code, the log, and how to run just that step again."""
    for result in results:
        if result.failure is None:
            continue
        name = result.item.node.name
        console.print(Text(f"\n{name} failed: {result.failure.error}", style="bold red"))
        if result.failure.location:
            console.print(Text(f"  at    {result.failure.location}"))
        if result.attempt:
            console.print(Text(f"  log   {attempt_path(store, result.item.node.directory, result.attempt)}/.log"))
        console.print(Text(f"  again {command} --run_only '^{name}$'"))


def result_output(store: Store, result: StepResult) -> str | None:
    """The path of the committed attempt that a result stands for."""
    if result.commit is None:
        return None
    return attempt_path(store, result.item.node.directory, result.commit.attempt)


class LiveView:
    """Tells of running steps: a bar each on a terminal, else a line now and then. Also the scheduler's listener.

    How far a step is comes from the beat of its claim, so it does not matter where the step runs.
    """

    def __init__(self, console: Console, store: Store, bars: bool) -> None:
        self._console = console
        self._store = store
        self._running: dict[str, tuple[PlanItem, int]] = {}
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._bars = _progress_bars(console) if bars and console.is_terminal else None
        self._bar_of: dict[str, TaskID] = {}

    def __enter__(self) -> LiveView:
        if self._bars:
            self._bars.start()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._bars:
            self._bars.stop()

    def started(self, item: PlanItem, claim: int) -> None:
        name = item.node.name
        with self._lock:
            self._running[name] = (item, claim)
            self._told[name] = time.monotonic()
        if self._bars:
            self._bar_of[name] = self._bars.add_task(name, total=None, news="")
        else:
            self._console.print(Text(f"{_clock()} start  {name}"))

    def waiting(self, item: PlanItem) -> None:
        self._console.print(Text(f"{_clock()} wait   {item.node.name}: another launch is running it"))

    def finished(self, result: StepResult) -> None:
        name = result.item.node.name
        with self._lock:
            self._running.pop(name, None)
        if self._bars and name in self._bar_of:
            self._bars.remove_task(self._bar_of.pop(name))
        if result.status != "cached":
            took = f" in {_duration(result.seconds)}" if result.seconds else ""
            self._console.print(Text(f"{_clock()} {result.status:6} {name}{took}", style=_COLOURS[result.status]))

    def _poll(self) -> None:
        while not self._ended.wait(self._store.beat_seconds):
            with self._lock:
                running = list(self._running.values())
            for item, claim in running:
                news = self._news(item, claim)
                if news:
                    self._tell(item.node.name, news)

    def _news(self, item: PlanItem, claim: int) -> progress.Progress | None:
        beat = self._store.read(beat_path(self._store, item.node.directory, claim))
        news = json.loads(beat)["progress"] if beat else None
        return progress.Progress(**news) if news else None

    def _tell(self, name: str, news: progress.Progress) -> None:
        if self._bars:
            if name in self._bar_of:
                self._bars.update(self._bar_of[name], completed=news.done, total=news.total, news=news.text())
        elif time.monotonic() - self._told[name] > _PLAIN_SECONDS:
            self._told[name] = time.monotonic()
            self._console.print(Text(f"{_clock()}        {name}: {news.text()}"))


def _progress_bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[news]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _figures(store: Store, output: str) -> str:
    """The numbers at the top of the output's metrics.json, a step's way to show its result."""
    found = store.read(f"{output}/metrics.json")
    if found is None:
        return ""
    metrics = json.loads(found)
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return ", ".join(figure_texts(numbers)[:_SHOWN_FIGURES])


def _relative(store: Store, path: str | None) -> str:
    return path.removeprefix(f"{store.prefix}/") if path else ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _coloured(word: str) -> Text:
    return Text(str(word), style=_COLOURS[str(word)])


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
