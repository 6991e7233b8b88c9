"""The attempts of a step, oldest first: when each was claimed, ran and ended, where, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from marin_sft.errors import DamagedFile
from marin_sft.execution.claims import Claim, attempt_path, claim_numbers, read_beat, read_claim
from marin_sft.execution.clock import seconds_since_epoch
from marin_sft.execution.commits import Consumed
from marin_sft.execution.documents import JsonObject, read_document
from marin_sft.execution.step_state import StepState, read_failure
from marin_sft.execution.store import Store

State = Literal["committed", "failed", "running", "lost", "ended"]
_SHOWN = 20  # the newest attempts of a step


@dataclass(frozen=True)
class Record:
    """The parts of an attempt's record that are shown. It is written when the attempt ends."""

    payload: dict[str, object]
    function: str = ""
    config: object = None
    inputs: tuple[Consumed, ...] = ()
    resources: object = None
    start: str = ""
    end: str = ""
    seconds: float = 0.0
    exit: str = ""
    environment: dict[str, object] = field(default_factory=dict)
    launch: JsonObject = field(default_factory=dict)

    @property
    def inputs_by_directory(self) -> list[str]:
        return [used.directory for used in self.inputs]


@dataclass(frozen=True)
class Attempt:
    """One attempt. Times are in seconds since the epoch, by the clock of the machine that ran it.

    state: "lost" if its owner went away without a word; "ended" if it ended well but another attempt was committed.
    started: when the body began; None if that was not recorded.
    ended: when it ended; for a lost attempt its last sign of life; None while it runs.
    run: the launch that made it, if recorded.
    """

    number: int
    state: State
    host: str
    pid: int
    claimed: float
    started: float | None
    ended: float | None
    run: str | None
    error: str | None


def read_attempts(store: Store, directory: str, state: StepState) -> list[Attempt]:
    """The newest attempts, oldest first. Attempts whose claim cannot be read are left out."""
    attempts = []
    for number in claim_numbers(store, directory)[-_SHOWN:]:
        try:
            claim = read_claim(store, directory, number)
        except DamagedFile:
            continue
        if claim is not None:
            attempts.append(_attempt(store, directory, claim, state))
    return attempts


def _attempt(store: Store, directory: str, claim: Claim, state: StepState) -> Attempt:
    record = read_record(store, directory, claim.number)
    word, error = _state_of(store, directory, claim, state, record)
    claimed = seconds_since_epoch(claim.time)
    started, ended = (_seconds(record.start), _seconds(record.end)) if record else (None, None)
    if record is None and word in ("lost", "failed"):
        beat = read_beat(store, directory, claim.number)
        ended = max(claimed, beat["time"]) if beat else claimed
    run = claim.run or (str(record.launch["run"]) if record and record.launch.get("run") else None)
    return Attempt(claim.number, word, claim.owner.host, claim.owner.pid, claimed, started, ended, run, error)


def _state_of(
    store: Store, directory: str, claim: Claim, state: StepState, record: Record | None
) -> tuple[State, str | None]:
    if state.commit is not None and state.commit.attempt == claim.number:
        return "committed", None
    if record is not None and record.exit == "ok":
        return "ended", None
    if state.claim is not None and state.claim.number == claim.number and state.running:
        return "running", None
    failure = read_failure(store, directory, claim.number)
    return ("failed", failure.error) if failure else ("lost", None)


def _seconds(moment: str) -> float | None:
    try:
        return seconds_since_epoch(moment)
    except ValueError:
        return None


def read_record(store: Store, directory: str, attempt: int) -> Record | None:
    """None if the attempt has not ended, was lost, or left a record that cannot be read."""
    path = f"{attempt_path(store, directory, attempt)}/.record.json"
    try:
        return read_document(store, path, Record, "")
    except DamagedFile:
        return None


def newest_record(store: Store, directory: str, state: StepState) -> Record | None:
    """The record of the committed attempt, else of the newest one that ended."""
    if state.commit is not None:
        return read_record(store, directory, state.commit.attempt)
    numbers = reversed(claim_numbers(store, directory))
    return next((record for number in numbers if (record := read_record(store, directory, number))), None)
