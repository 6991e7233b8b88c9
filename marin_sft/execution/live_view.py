"""Running steps on screen: bars and colours on a terminal, else plain lines."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from marin_sft import progress
from marin_sft.errors import InfrastructureLoss
from marin_sft.execution.catalog import step_name
from marin_sft.execution.claims import attempt_path, read_beat, read_claim
from marin_sft.execution.commits import Consumed
from marin_sft.execution.live_line import LiveLine
from marin_sft.execution.live_output import LiveOutput
from marin_sft.execution.patience import no_patience
from marin_sft.execution.plan import PlanItem
from marin_sft.execution.results import StepResult
from marin_sft.execution.store import Store
from marin_sft.execution.tables import duration_text, shortened
from marin_sft.execution.terminal import visible
from marin_sft.execution.view import COLOURS

_QUEUED_SECONDS = 15.0  # until a step that has not begun is said to wait, without a terminal
_PLAIN_SECONDS = 15.0  # between two progress lines of a step, without a terminal
_ANSI = re.compile(r"\x1b\[[0-9;:]*m")


class LiveView:
    """Shows running steps: their output and, on a terminal, a line each with a bar. It is the scheduler's listener.

    Progress comes from the beat of a step's claim, output from its log, so it does not matter where the step runs.

    elsewhere: steps run in other processes. In this process they would print their output themselves.
    """

    def __init__(self, console: Console, store: Store, elsewhere: bool) -> None:
        self._console = console
        self._store = store
        self._running: dict[str, tuple[PlanItem, int]] = {}
        self._told: dict[str, tuple[float, str]] = {}  # when, and the last progress line
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._lines_of: dict[str, LiveLine] = {}
        self._bars = self._live() if elsewhere and console.is_terminal else None
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

    def early(self, result: StepResult) -> None:
        self._in_order(self._end_early, result)

    def outdated(self, item: PlanItem, by: Consumed) -> None:
        self._in_order(self._start_again, item, by)

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
            self._told[name] = (time.monotonic(), "")
            self._lines_of[name] = LiveLine(name, time.monotonic())
        if not self._output:
            self._begin(name)
        if self._output:
            self._output.follow(name, f"{attempt_path(self._store, item.node.directory, claim)}/.log")

    def _begin(self, name: str) -> None:
        """Its attempt has begun. Until then a step is queued: it waits for cores, devices or machines."""
        with self._lock:
            line = self._lines_of.get(name)
            if line is None or line.claimed is not None:
                return
            line.claimed = time.monotonic()
        if not self._bars:
            self._event("start", name)

    def _event(self, what: str, name: str, more: str = "", style: str = "") -> None:
        if self._console.is_terminal:
            name = shortened(name, max(20, self._console.width - len(more) - 16))
        self._console.print(Text(f"{_clock()} {what:6} {name}{more}", style=style))

    def _wait(self, item: PlanItem) -> None:
        if self._output:
            self._output.stop(item.node.name)
        self._event("wait", item.node.name, ": another launch is running it")

    def _lose(self, item: PlanItem, loss: InfrastructureLoss) -> None:
        self._stop_showing(item.node.name)
        reason = visible(str(loss).splitlines()[0])
        self._event("lost", item.node.name, f": {reason}; a new attempt begins")

    def _end_early(self, result: StepResult) -> None:
        node = result.item.node
        self._stop_showing(node.name)
        took = f" in {duration_text(result.seconds)}" if result.seconds else ""
        running = ", ".join(used.name for used in node.parts)
        self._event("early", node.name, f"{took}; it counts once {running} has ended")

    def _start_again(self, item: PlanItem, by: Consumed) -> None:
        what = f"{step_name(by.directory)} ended with another {', '.join(by.parts)} than it used"
        self._event("again", item.node.name, f": {what}")

    def _stop_showing(self, name: str) -> None:
        with self._lock:
            self._running.pop(name, None)
            self._lines_of.pop(name, None)
        if self._output:
            self._output.stop(name)

    def _finish(self, result: StepResult) -> None:
        name = result.item.node.name
        if result.status in ("ran", "failed"):
            self._begin(name)  # if it ended before anybody looked
        self._stop_showing(name)
        if result.status != "cached":
            took = f" in {duration_text(result.seconds)}" if result.seconds else ""
            self._event(result.status, name, took, COLOURS[result.status])

    def _show(self, name: str, line: str) -> None:
        self._begin(name)
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
                    self._see_claim(item, claim)
                    news = read_beat(self._store, item.node.directory, claim).get("progress")
                    if news:
                        self._tell(item.node.name, progress.Progress(**news))

    def _see_claim(self, item: PlanItem, claim: int) -> None:
        name = item.node.name
        line = self._lines_of.get(name)
        if line is None or line.claimed is not None:
            return
        if read_claim(self._store, item.node.directory, claim):
            self._begin(name)
        elif not self._bars and not line.told_queued and time.monotonic() - line.submitted > _QUEUED_SECONDS:
            line.told_queued = True
            self._event("queued", name, ": waits for cores, devices or machines")

    def _live(self) -> Live:
        return Live(get_renderable=self._shown_lines, console=self._console, transient=True, refresh_per_second=4)

    def _shown_lines(self) -> Group:
        """As many as fit on the screen."""
        with self._lock:
            lines = list(self._lines_of.values())
        most, now, width = max(1, self._console.height - 2), time.monotonic(), self._console.width
        texts = [line.text(width, now) for line in lines[:most]]
        return Group(*texts, *([Text(f"and {len(lines) - most} more", style="dim")] if len(lines) > most else []))

    def _tell(self, name: str, news: progress.Progress) -> None:
        if self._bars:
            with self._lock:
                if name in self._lines_of:
                    self._lines_of[name].hear(news, time.monotonic())
        elif not self._output and time.monotonic() - self._told[name][0] > _PLAIN_SECONDS:
            if (text := news.text()) != self._told[name][1]:
                self._told[name] = (time.monotonic(), text)
                self._console.print(Text(f"{_clock()}        {name}: {text}"))


def _clock() -> str:
    return time.strftime("%H:%M:%S")
