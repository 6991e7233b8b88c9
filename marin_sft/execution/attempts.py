"""The attempts of a step: when each was claimed, ran and ended, and how. Derived from what exists in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from marin_sft.errors import DamagedFile
from marin_sft.execution.attempt_record import AttemptRecord, sound_record
from marin_sft.execution.claims import Claim, claim_numbers, read_beat, read_claim
from marin_sft.execution.clock import seconds_since_epoch
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.step_state import StepState, read_failure
from marin_sft.execution.store import Store

How = Literal["committed", "ended", "failed", "running", "lost"]


@dataclass(frozen=True)
class Attempt:
    """One attempt. Times are in seconds since the epoch, by the clock of the machine that ran it.

    how: "lost" if its owner went away without a word; "ended" if it ended well but another attempt was committed.
    error: why it failed.
    last_seen: its last sign of life, if it left no record.
    """

    claim: Claim
    how: How
    record: AttemptRecord | None
    error: str | None
    last_seen: float | None

    @property
    def number(self) -> int:
        return self.claim.number

    @property
    def claimed(self) -> float:
        return seconds_since_epoch(self.claim.time)

    @property
    def started(self) -> float | None:
        """When the body began; None if that was not recorded."""
        return _moment(self.record.start) if self.record else None

    @property
    def ended(self) -> float | None:
        """None while it runs; the last sign of life of one that left no record."""
        if self.record is not None:
            return _moment(self.record.end)
        return None if self.how == "running" else max(self.claimed, self.last_seen or 0.0)

    @property
    def seconds(self) -> float:
        """How long it took, up to its last sign of life. One that never beat ended within seconds of its claim."""
        return self.record.seconds if self.record else max(0.0, (self.last_seen or 0.0) - self.claimed)

    @property
    def run(self) -> str | None:
        """The launch that made it, if recorded."""
        return self.claim.run or (self.record.run if self.record else None)

    @property
    def resources(self) -> JsonObject | None:
        return self.record.resources if self.record else self.claim.resources


def read_attempts(store: Store, directory: str, state: StepState, most: int | None = None) -> list[Attempt]:
    """The `most` newest attempts, or all, oldest first. Attempts whose claim cannot be read are left out."""
    numbers = claim_numbers(store, directory)
    claims = (_sound_claim(store, directory, number) for number in numbers[-(most or len(numbers)) :])
    return [_attempt(store, directory, claim, state) for claim in claims if claim is not None]


def newest_record(store: Store, directory: str, state: StepState) -> AttemptRecord | None:
    """The record of the committed attempt, else of the newest one that ended."""
    if state.commit is not None:
        return sound_record(store, directory, state.commit.attempt)
    numbers = reversed(claim_numbers(store, directory))
    return next((record for number in numbers if (record := sound_record(store, directory, number))), None)


def _sound_claim(store: Store, directory: str, number: int) -> Claim | None:
    try:
        return read_claim(store, directory, number)
    except DamagedFile:
        return None


def _attempt(store: Store, directory: str, claim: Claim, state: StepState) -> Attempt:
    record = sound_record(store, directory, claim.number)
    how, error = _how_of(store, directory, claim, state, record)
    return Attempt(claim, how, record, error, None if record else _last_seen(store, directory, claim, state))


def _how_of(
    store: Store, directory: str, claim: Claim, state: StepState, record: AttemptRecord | None
) -> tuple[How, str | None]:
    if state.commit is not None and state.commit.attempt == claim.number:
        return "committed", None
    if record is not None and record.ended_well:
        return "ended", None
    newest = state.claim is not None and state.claim.number == claim.number
    if newest and state.running:
        return "running", None
    failure = state.failure if newest else read_failure(store, directory, claim.number)
    error = failure.error if failure else record.exit if record else None
    return ("lost" if error is None else "failed"), error


def _last_seen(store: Store, directory: str, claim: Claim, state: StepState) -> float | None:
    if state.claim is not None and state.claim.number == claim.number:
        return state.beat_time
    return read_beat(store, directory, claim.number).get("time")


def _moment(text: str) -> float | None:
    try:
        return seconds_since_epoch(text)
    except ValueError:
        return None
