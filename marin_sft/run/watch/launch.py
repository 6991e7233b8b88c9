"""A launch as it is at one moment: its steps in the order of the DAG, with state, progress and results."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from marin_sft.errors import DamagedFile, UserError
from marin_sft.execution.catalog import in_parallel
from marin_sft.execution.claims import attempt_path, read_claim
from marin_sft.execution.clock import seconds_since_epoch
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.live_line import LiveLine
from marin_sft.execution.record import Launch, read_begin, read_end, read_launches
from marin_sft.execution.step_state import StepState, read_state
from marin_sft.execution.store import Store
from marin_sft.execution.tables import duration_text
from marin_sft.execution.terminal import in_one_line
from marin_sft.execution.view import figures_text
from marin_sft.run.launches import find_launch, status_of
from marin_sft.run.status import outcome

GOING = ("running", "not ended")


@dataclass(frozen=True)
class WatchedStep:
    """word: see `status.outcome`, or "damaged". line: of a running step.
    remark: what there is to say of another one: time and figures, or the error.
    log: the path of the newest attempt's log.
    """

    name: str
    directory: str
    word: str
    remark: str = ""
    line: LiveLine | None = None
    attempt: int | None = None
    log: str | None = None


@dataclass(frozen=True)
class Moment:
    """begun, ended, at: when the launch began and ended, and when it was looked at, in seconds since the epoch.
    newer: a later launch, if there is one.
    """

    launch: str
    status: str
    begun: float
    ended: float | None
    at: float
    steps: tuple[WatchedStep, ...]
    newer: str | None = None

    @property
    def going(self) -> bool:
        return self.status.startswith(GOING)


def find_watched(store: Store, text: str | None) -> Launch:
    """The newest launch: of all, of an experiment's file, or whose name contains the text.

    Raises:
        UserError: there is none.
    """
    if text and not text.endswith(".py"):
        return find_launch(store, text)
    script = text and text.rpartition("/")[2].removesuffix(".py")
    for launch in read_launches(store):
        if script in (None, launch.script):
            return launch
    of = f" of {text}" if text else ""
    raise UserError(f"no launch{of} is recorded under {store.prefix}; start one, or choose another store with --prefix")


class WatchedLaunch:
    """Looks at a launch again and again. What cannot change is read once."""

    def __init__(self, store: Store, launch: Launch) -> None:
        self._store, self._launch = store, launch
        self._begin = read_begin(store, launch)
        self._end: JsonObject | None = None
        self._lines: dict[tuple[str, int], LiveLine] = {}
        self._ended: dict[str, str] = {}  # by output

    def look(self) -> Moment:
        """At most the store calls of `marin-sft status`."""
        recorded = read_launches(self._store)
        launch = next((found for found in recorded if found.name == self._launch.name), self._launch)
        self._end = self._end or read_end(self._store, launch)
        status = status_of(self._begin, self._end)
        results = {result["path"]: result for result in (self._end or {"results": []})["results"]}
        going = status.startswith(GOING)
        steps = in_parallel(self._store, lambda step: self._step(step, results, going), self._begin["steps"])
        newer = recorded[0].name if recorded and recorded[0].name > launch.name else None
        ended = seconds_since_epoch(self._end["time"]) if self._end else None
        return Moment(launch.name, status, launch.time, ended, time.time(), tuple(steps), newer)

    def _step(self, step: JsonObject, results: dict[str, JsonObject], going: bool) -> WatchedStep:
        name, directory = step["name"], step["directory"]
        result = results.get(self._store.path(directory), {})
        try:
            state = read_state(self._store, directory)
            word = outcome(state, result.get("result"), self._launch.time, going)
            found = WatchedStep(name, directory, word, *self._told(step, word, state, result))
        except DamagedFile as error:
            return WatchedStep(name, directory, "damaged", str(error))
        number = state.claim.number if state.claim else state.commit.attempt if state.commit else None
        log = f"{attempt_path(self._store, directory, number)}/.log" if number else None
        return replace(found, attempt=number, log=log)

    def _told(self, step: JsonObject, word: str, state: StepState, result: JsonObject) -> tuple[str, LiveLine | None]:
        if word == "running" and state.claim is not None:
            return "", self._heard(step, state)
        if word == "ran" and state.commit is not None:
            return self._result(step["directory"], state), None
        error = result.get("error") or (state.failure.error if state.failure and word == "failed" else "")
        return in_one_line(error), None

    def _heard(self, step: JsonObject, state: StepState) -> LiveLine:
        """The same line at every look at an attempt, since it judges the speed from what it heard before."""
        assert state.claim is not None
        now, key = time.monotonic(), (step["directory"], state.claim.number)
        if key not in self._lines:
            begun = now - max(0.0, time.time() - seconds_since_epoch(state.claim.time))
            self._lines[key] = LiveLine(step["name"], begun, begun)
        if state.progress is not None:
            self._lines[key].hear(state.progress, now)
        return self._lines[key]

    def _result(self, directory: str, state: StepState) -> str:
        """How long the committed attempt took, and its figures."""
        assert state.commit is not None
        output = attempt_path(self._store, directory, state.commit.attempt)
        if output not in self._ended:
            claim = read_claim(self._store, directory, state.commit.attempt)
            took = seconds_since_epoch(state.commit.time) - seconds_since_epoch(claim.time) if claim else None
            told = [] if took is None else [duration_text(max(0.0, took))]
            self._ended[output] = "  ".join([*told, *filter(None, [figures_text(self._store, output)])])
        return self._ended[output]
