"""All steps under a prefix, with state, age, duration and progress."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

from marin_sft.errors import DamagedFile, UserError
from marin_sft.execution.catalog import in_parallel, location, step_directories, step_name
from marin_sft.execution.claims import attempt_path, read_claim
from marin_sft.execution.clock import seconds_since_epoch
from marin_sft.execution.pins import read_pins
from marin_sft.execution.record import Launch, read_begin, read_launches
from marin_sft.execution.step_state import StepState, read_state
from marin_sft.execution.store import Store
from marin_sft.execution.tables import Cell, counted, duration_text, print_table
from marin_sft.execution.terminal import in_one_line
from marin_sft.execution.view import figures_text
from marin_sft.nearest import nearest_text

StateName = Literal["COMMITTED", "RUNNING", "FAILED", "INTERRUPTED", "ABSENT", "DAMAGED"]

_RESULTS = {"ran": "ran", "adopted": "ran", "cached": "reused", "unneeded": "reused"}
_COLOURS = {
    "COMMITTED": "green",
    "RUNNING": "bold cyan",
    "FAILED": "bold red",
    "INTERRUPTED": "yellow",
    "ABSENT": "dim",
    "DAMAGED": "bold red",
}


@dataclass(frozen=True)
class StepStatus:
    """The status of a step.

    output: the path of the committed attempt.
    age: seconds since the commit, else since the newest claim.
    seconds: how long the attempt took, or has been running.
    news: progress of a running attempt, and other remarks; for a DAMAGED step, the unreadable file.
    figures: what the output's metrics.json says first, of steps of the newest launch.
    """

    name: str
    path: str
    output: str | None
    state: StateName
    age: float | None
    seconds: float | None
    news: str
    figures: str = ""


def state_name(state: StepState) -> StateName:
    """COMMITTED also while a forced rerun is running or has failed, since the old output is still valid."""
    if state.commit is not None:
        return "COMMITTED"
    if state.claim is None:
        return "ABSENT"
    if state.running:
        return "RUNNING"
    return "FAILED" if state.failure is not None else "INTERRUPTED"


def outcome(state: StepState, result: str | None, begun: float | None, going: bool) -> str:
    """One word for what became of a step in a launch: ran, reused, running, failed, blocked, cancelled, interrupted,
    waiting, or "not run".

    result: what the launch recorded when it ended. begun: when it began, in seconds since the epoch.
    going: whether it has not ended.
    """
    if result is not None:
        return _RESULTS.get(result, result)
    claim, commit = state.claim, state.commit
    within = bool(claim and begun and (state.running or seconds_since_epoch(claim.time) >= begun))
    # A failure of an earlier launch says nothing as long as this one may still run the step again.
    if within or (claim and not commit and not (begun and going)):
        return "running" if state.running else "failed" if state.failure else "interrupted"
    if commit is not None:
        return "ran" if begun is None or seconds_since_epoch(commit.time) >= begun else "reused"
    return "waiting" if going else "not run"


def read_statuses(
    store: Store,
    pattern: str | None,
    known: Sequence[str] | None = None,
    recorded: Sequence[Launch] | None = None,
) -> list[StepStatus]:
    """Steps whose name or directory matches the glob `pattern`, or whose name contains it; without a pattern, all.

    First those of the newest launch, inputs first, with those that were never started, as ABSENT; then others by name.

    known, recorded: the steps' directories, and the launches, newest first, if known already.

    Raises:
        UserError: the pattern matches no step; with the nearest name.
    """
    known = step_directories(store) if known is None else known
    places = {location(store, directory): directory for directory in known}
    newest: list[str] = []
    for launch in (read_launches(store) if recorded is None else recorded)[:1]:
        named = (step["directory"] for step in read_begin(store, launch)["steps"])
        newest = [places.get(location(store, directory), directory) for directory in named]
    of_launch, planned = set(newest), set(newest) - set(known)
    ordered = dict.fromkeys([*newest, *sorted(known)])
    chosen = [directory for directory in ordered if pattern is None or matches(directory, pattern)]
    pinned = {location(store, pin.directory) for pin in read_pins(store)}
    found = in_parallel(store, lambda d: _read_status(store, d, location(store, d) in pinned, d in of_launch), chosen)
    # A directory without claims that no launch planned only looks like a step.
    statuses = [s for d, s in zip(chosen, found, strict=True) if s.state != "ABSENT" or d in planned]
    if not statuses and pattern is not None:
        names = {step_name(directory) for directory in {*known, *planned}}
        hint = nearest_text(pattern, sorted(names)) if names else "; there are no steps"
        raise UserError(f"no step matches {pattern!r} under {store.prefix}{hint}")
    return statuses


def matches(directory: str, pattern: str) -> bool:
    """Whether a glob matches a step's name or directory, or a text is contained in its name."""
    if any(character in pattern for character in "*?["):
        return any(fnmatch.fnmatchcase(text, pattern) for text in (step_name(directory), directory))
    return pattern in step_name(directory) or directory.startswith(pattern)  # not within fingerprints


def _read_status(store: Store, directory: str, pinned: bool, with_figures: bool) -> StepStatus:
    try:
        return _status_of(store, directory, pinned, with_figures)
    except DamagedFile as error:
        return StepStatus(step_name(directory), store.path(directory), None, "DAMAGED", None, None, str(error))


def _status_of(store: Store, directory: str, pinned: bool, with_figures: bool) -> StepStatus:
    state = read_state(store, directory)
    name = state_name(state)
    age = seconds = output = None
    if state.commit is not None:
        claim = read_claim(store, directory, state.commit.attempt)
        committed = seconds_since_epoch(state.commit.time)
        age = time.time() - committed
        seconds = committed - seconds_since_epoch(claim.time) if claim else None
        output = attempt_path(store, directory, state.commit.attempt)
    elif state.claim is not None:
        begun = seconds_since_epoch(state.claim.time)
        age = time.time() - begun
        seconds = (time.time() if state.running else state.beat_time or begun) - begun
    news = [*_news(state), *(["pinned"] if pinned else [])]
    figures = figures_text(store, output) if output and with_figures else ""
    return StepStatus(step_name(directory), store.path(directory), output, name, age, seconds, "; ".join(news), figures)


def _news(state: StepState) -> list[str]:
    if state.claim is None:
        return []
    attempt = f"attempt {state.claim.number}"
    rerun = "forced rerun, " if state.commit is not None else ""
    if state.failure is not None:
        return [f"{rerun}{attempt} failed: {in_one_line(state.failure.error)}"]
    if not state.running:
        return [f"{rerun}{attempt} interrupted"]
    far = [state.progress.text()] if state.progress else []
    beat = state.beat_time
    seen = "no beat yet" if beat is None else f"beat {duration_text(max(0.0, time.time() - beat))} ago"
    owner = state.claim.owner
    # Only show the age: judging whether an owner is dead takes watching its beat for a while.
    return [*far, f"{rerun}{attempt} by process {owner.pid} on {owner.host}, {seen}"]


def print_statuses(console: Console, store: Store, statuses: list[StepStatus]) -> None:
    if statuses:
        rows = [_status_row(store, status) for status in statuses]
        print_table(console, ("state", "age", "took", "step"), rows)
    counts = {name: sum(status.state == name for status in statuses) for name in _COLOURS}
    shown = ", ".join(f"{count} {name.lower()}" for name, count in counts.items() if count)
    console.print(Text(f"{counted(len(statuses), 'step')} under {store.prefix}{': ' if shown else ''}{shown}"))


def print_stores(console: Console, store: Store, below: Sequence[str]) -> None:
    """Print the nested stores, which are prefixes of their own."""
    for directory in below:
        console.print(Text(f"Not searched: {directory}, a store of its own; see --prefix {store.path(directory)}"))


def _status_row(store: Store, status: StepStatus) -> tuple[Cell, ...]:
    step = Text(status.path.removeprefix(f"{store.prefix}/"))
    for line in filter(None, (status.figures, status.news)):
        step.append(f"\n  {line}", style="dim")
    return Text(status.state, style=_COLOURS[status.state]), age_text(status.age), _took(status.seconds), step


def age_text(seconds: float | None) -> str:
    """`3 min`, `5 h`, `12 d`."""
    if seconds is None:
        return ""
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (86400 * 2, 3600, "h")):
        if seconds < limit:
            return f"{max(0.0, seconds) // unit:.0f} {name}"
    return f"{seconds // 86400:.0f} d"


def _took(seconds: float | None) -> str:
    return "" if seconds is None else duration_text(max(0.0, seconds))
