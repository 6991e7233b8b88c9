"""Claims, attempts and commits of one step. All state is derived from what exists in the store.

    {directory}/claims/000003.json   create-exclusive; its number is the epoch and the attempt's name
    {directory}/claims/000003.beat   rewritten by the owner: a counter, and how far the step is
    {directory}/3/                   the attempt: outputs, .files.json, .record.json, .log, .failure.json
    {directory}/commits/000001.json  create-exclusive: which attempt is the output, and what it consumed
    {directory}/tombstone.json       create-exclusive: commits and attempts that gc is removing; gone to all others

An attempt aims at one commit number. It may resume only from earlier attempts with the same aim and fingerprint.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from marin_sft.execution.fingerprint import Payload, canonical_json
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.store import Store

_TOMBSTONE = "tombstone.json"
_NUMBERED = re.compile(r"(\d{6})\.json")


@dataclass(frozen=True)
class Claim:
    """Who works on a step. `number` is the epoch: a higher one fences off a lower one."""

    number: int
    aim: int
    fingerprint: str
    owner: ProcessIdentity
    time: str


@dataclass(frozen=True)
class Consumed:
    """An input as it was used: the step's directory, its commit number and output digest (None: no digest known)."""

    directory: str
    commit: int
    digest: str | None


@dataclass(frozen=True)
class Commit:
    """A published output. `source` is the digest of the step function's source when it was made, `settings` the values
    of the config's fields that are no part of the identity."""

    number: int
    attempt: int
    fingerprint: str
    payload: Payload
    digest: str | None
    inputs: tuple[Consumed, ...]
    source: str | None
    time: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed. `location` is the last frame in the user's code, "file:line in function"."""

    error: str
    location: str | None
    traceback: str


@dataclass(frozen=True)
class Tombstone:
    """What a garbage collection is removing from a step. `aim` is the highest commit number that any of it has or aimed
    at: new attempts aim above it, so that none resumes from what is being removed."""

    commits: tuple[int, ...]
    attempts: tuple[int, ...]
    aim: int
    owner: ProcessIdentity
    time: str


@dataclass(frozen=True)
class StepState:
    """What the store says of a step.

    `claim` is the newest one when it may still lead to a commit, `failure` what ended it, `owner_gone` whether its
    owner is seen to have ended or has given it up. `beat_time` is when the owner last beat, by the owner's clock.
    `last_claim` is the highest claim number seen: who wants the step next has to create the following number.
    `last_aim` is the highest commit number that is being removed; see `Tombstone`.
    """

    commit: Commit | None = None
    claim: Claim | None = None
    failure: Failure | None = None
    owner_gone: bool = False
    last_claim: int = 0
    beat_time: float | None = None
    last_aim: int = 0

    @property
    def next_aim(self) -> int:
        """The commit number that the next attempt aims at."""
        if self.claim is not None:
            return self.claim.aim
        return max(self.commit.number if self.commit else 0, self.last_aim) + 1

    @property
    def begun(self) -> bool:
        """Whether anybody ever worked on the step; else its directory is somebody else's, or not there."""
        return self.commit is not None or self.last_claim > 0

    @property
    def interrupted(self) -> bool:
        """A claim without an end whose owner is seen to be gone."""
        return self.claim is not None and self.failure is None and self.owner_gone

    @property
    def running(self) -> bool:
        """A claim without an end whose owner is alive, or out of sight."""
        return self.claim is not None and self.failure is None and not self.owner_gone


def attempt_path(store: Store, directory: str, attempt: int) -> str:
    return f"{store.path(directory)}/{attempt}"


def read_state(store: Store, directory: str) -> StepState:
    """The state of the step in `directory` (relative to the prefix, or absolute). What is being removed is gone."""
    root = store.path(directory)
    # The tombstone before the commits: gc removes it last, so where there is none, all it was for is there or is gone.
    in_claims, in_commits = store.names_of(root, ("claims", "commits"))
    tombstone = read_tombstone(store, directory) if _TOMBSTONE in in_claims else None
    commit = _newest_commit(store, directory, _numbers(in_commits), tombstone)
    claims = _numbers(in_claims)
    state = StepState(commit=commit, last_claim=max([*claims, commit.attempt if commit else 0]))
    if tombstone is not None:
        last_claim = max(state.last_claim, *tombstone.attempts, 0)
        state = dataclasses.replace(state, last_claim=last_claim, last_aim=tombstone.aim)
        claims = [number for number in claims if number not in tombstone.attempts]
    if not claims or commit is not None and commit.attempt >= claims[-1]:
        return state
    claim = read_claim(store, directory, claims[-1])
    beat = read_beat(store, directory, claims[-1])
    gone = claim is not None and (claim.owner.is_gone() or beat.get("released", False))
    # Only now: an owner that ended meanwhile may have committed or failed as its last act.
    commit = _newest_commit(store, directory, commit_numbers(store, directory), tombstone)
    if claim is None or commit is not None and claim.aim <= commit.number:
        return dataclasses.replace(state, commit=commit)
    failure = _read_json(store, f"{root}/{claim.number}/.failure.json")
    return dataclasses.replace(
        state,
        commit=commit,
        claim=claim,
        failure=failure and Failure(**failure),
        owner_gone=gone,
        beat_time=beat.get("time"),
    )


def claim_numbers(store: Store, directory: str) -> list[int]:
    return _numbers(store.names(f"{store.path(directory)}/claims"))


def commit_numbers(store: Store, directory: str) -> list[int]:
    return _numbers(store.names(f"{store.path(directory)}/commits"))


def has_step(store: Store, directory: str) -> bool:
    """Whether there are claims, commits or a tombstone, by their names alone."""
    in_claims, in_commits = store.names_of(store.path(directory), ("claims", "commits"))
    return bool(_numbers(in_claims) or _numbers(in_commits) or _TOMBSTONE in in_claims)


def tombstone_path(store: Store, directory: str) -> str:
    return f"{store.path(directory)}/claims/{_TOMBSTONE}"  # there, so that one listing shows it with the claims


def read_tombstone(store: Store, directory: str) -> Tombstone | None:
    found = _read_json(store, tombstone_path(store, directory))
    if found is None:
        return None
    numbers = {name: tuple(found[name]) for name in ("commits", "attempts")}
    return Tombstone(**{**found, **numbers, "owner": ProcessIdentity(**found["owner"])})


def write_tombstone(store: Store, directory: str, tombstone: Tombstone) -> bool:
    """False when there is one already."""
    return store.create_exclusive(tombstone_path(store, directory), _to_json(tombstone))


def _newest_commit(store: Store, directory: str, numbers: list[int], tombstone: Tombstone | None) -> Commit | None:
    removed = tombstone.commits if tombstone else ()
    commits = [number for number in numbers if number not in removed]
    return read_commit(store, directory, commits[-1]) if commits else None


def read_commit(store: Store, directory: str, number: int) -> Commit | None:
    found = _read_json(store, f"{store.path(directory)}/commits/{number:06}.json")
    return found and Commit(**{**found, "inputs": tuple(Consumed(**used) for used in found["inputs"])})


def read_claim(store: Store, directory: str, number: int) -> Claim | None:
    found = _read_json(store, f"{store.path(directory)}/claims/{number:06}.json")
    return found and Claim(**{**found, "owner": ProcessIdentity(**found["owner"])})


def take_claim(store: Store, directory: str, number: int, aim: int, fingerprint: str) -> Claim | None:
    """Claim the step for this process; None when another launch took the number first."""
    claim = Claim(number, aim, fingerprint, ProcessIdentity.current(), now())
    if store.create_exclusive(f"{store.path(directory)}/claims/{number:06}.json", _to_json(claim)):
        return claim
    return None


def publish(store: Store, directory: str, commit: Commit) -> Commit:
    """Commit the attempt, or adopt the commit that another launch published under this number first."""
    if store.create_exclusive(f"{store.path(directory)}/commits/{commit.number:06}.json", _to_json(commit)):
        store.point_latest(store.path(directory), str(commit.attempt))
        return commit
    return read_commit(store, directory, commit.number) or commit


def write_failure(store: Store, directory: str, attempt: int, failure: Failure) -> None:
    """Mark an attempt as failed: by its owner, or by the launch that saw its worker die."""
    text = json.dumps(dataclasses.asdict(failure), indent=1)
    store.replace(f"{attempt_path(store, directory, attempt)}/.failure.json", text.encode())


def resumable_attempts(store: Store, directory: str, claim: Claim) -> tuple[str, ...]:
    """The directories of the attempts that `claim` may resume from, newest first."""
    numbers = [n for n in claim_numbers(store, directory) if n < claim.number]
    earlier = [read_claim(store, directory, n) for n in reversed(numbers)]
    return tuple(
        attempt_path(store, directory, other.number)
        for other in earlier
        if other is not None and (other.aim, other.fingerprint) == (claim.aim, claim.fingerprint)
    )


def beat_path(store: Store, directory: str, claim: int) -> str:
    return f"{store.path(directory)}/claims/{claim:06}.beat"


def read_beat(store: Store, directory: str, claim: int) -> dict[str, Any]:
    """What `write_beat` wrote last; empty before the first beat."""
    return _read_json(store, beat_path(store, directory, claim)) or {}


def newer_claim(store: Store, directory: str, claim: Claim) -> bool:
    """Whether another launch has taken the step over. That a listing lacks the claim itself says nothing."""
    return max(claim_numbers(store, directory), default=0) > claim.number


def write_beat(
    store: Store, directory: str, claim: Claim, count: int, progress: Any, *, released: bool = False
) -> None:
    """For the owner of a claim only. `released`: it has stopped, and whoever wants the step may go on with it."""
    beat = {"count": count, "time": time.time(), "progress": progress, "released": released}
    store.replace(beat_path(store, directory, claim.number), json.dumps(beat).encode())


class Watch:
    """Judges owners of claims by their beats, on this process's own clock: clocks of two machines never meet."""

    def __init__(self, store: Store, timeout: float) -> None:
        self._store = store
        self._timeout = timeout
        self._seen: dict[tuple[str, int], tuple[bytes | None, float]] = {}

    def stands_still(self, directory: str, claim: Claim) -> bool:
        """True once the owner's beat has not moved for the timeout since this watch first looked."""
        beat = self._store.read(beat_path(self._store, directory, claim.number))
        key = (directory, claim.number)
        before, since = self._seen.get(key, (None, None))
        if since is None or beat != before:
            self._seen[key] = (beat, time.monotonic())
            return False
        return time.monotonic() - since > self._timeout


def now() -> str:
    """UTC, ISO 8601 to the millisecond."""
    moment = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment * 1000) % 1000:03}Z"


def seconds_since_epoch(moment: str) -> float:
    """The inverse of `now`."""
    return datetime.datetime.fromisoformat(moment).timestamp()


def _numbers(names: list[str]) -> list[int]:
    return sorted(int(match[1]) for match in map(_NUMBERED.fullmatch, names) if match)


def _read_json(store: Store, path: str) -> Any:
    data = store.read(path)
    return None if data is None else json.loads(data)


def _to_json(value: Any) -> bytes:
    return canonical_json(dataclasses.asdict(value)).encode()
