"""Claims, attempts and commits of one step. All state is derived from what exists in the store.

    {directory}/claims/000003.json   create-exclusive; its number is the epoch and the attempt's name
    {directory}/claims/000003.beat   rewritten by the owner: a counter, and how far the step is
    {directory}/3/                   the attempt: outputs, .files.json, .record.json, .log, .failure.json
    {directory}/commits/000001.json  create-exclusive: which attempt is the output, and what it consumed

An attempt aims at one commit number. It may resume only from earlier attempts with the same aim and fingerprint.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from marin_sft.execution.fingerprint import Payload, canonical_json
from marin_sft.execution.store import Store

_NUMBERED = re.compile(r"(\d{6})\.json")


@dataclass(frozen=True)
class ProcessIdentity:
    """Enough to see, from the same machine and process namespace, whether a process is gone."""

    host: str
    pid: int
    boot_id: str | None
    pid_namespace: str | None
    start_time: str | None

    @staticmethod
    def current() -> ProcessIdentity:
        pid = os.getpid()
        return ProcessIdentity(socket.gethostname(), pid, _boot_id(), _pid_namespace(), _start_time(pid))

    def is_gone(self) -> bool:
        """True only when it can be seen from here that the process has ended; False when alive or out of sight."""
        if self.boot_id is None or (self.boot_id, self.pid_namespace) != (_boot_id(), _pid_namespace()):
            return False
        return _start_time(self.pid) != self.start_time


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
class StepState:
    """What the store says of a step.

    `claim` is the newest one when it may still lead to a commit, `failure` what ended it, `owner_gone` whether its
    owner is seen to have ended or has given it up. `beat_time` is when the owner last beat, by the owner's clock.
    `last_claim` is the highest claim number seen: who wants the step next has to create the following number.
    """

    commit: Commit | None = None
    claim: Claim | None = None
    failure: Failure | None = None
    owner_gone: bool = False
    last_claim: int = 0
    beat_time: float | None = None

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
    """The state of the step in `directory` (relative to the prefix, or absolute)."""
    root = store.path(directory)
    commit = _newest_commit(store, directory)
    claims = _numbers(store.names(f"{root}/claims"))
    state = StepState(commit=commit, last_claim=claims[-1] if claims else 0)
    if not claims or commit is not None and commit.attempt >= claims[-1]:
        return state
    claim = read_claim(store, directory, claims[-1])
    beat = _read_json(store, beat_path(store, directory, claims[-1])) or {}
    gone = claim is not None and (claim.owner.is_gone() or beat.get("released", False))
    # Only now: an owner that ended meanwhile may have committed or failed as its last act.
    commit = _newest_commit(store, directory)
    if claim is None or commit is not None and claim.aim <= commit.number:
        return dataclasses.replace(state, commit=commit)
    failure = _read_json(store, f"{root}/{claim.number}/.failure.json")
    return StepState(commit, claim, failure and Failure(**failure), gone, claims[-1], beat.get("time"))


def _newest_commit(store: Store, directory: str) -> Commit | None:
    commits = _numbers(store.names(f"{store.path(directory)}/commits"))
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
    root = store.path(directory)
    numbers = [n for n in _numbers(store.names(f"{root}/claims")) if n < claim.number]
    earlier = [read_claim(store, directory, n) for n in reversed(numbers)]
    return tuple(
        attempt_path(store, directory, other.number)
        for other in earlier
        if other is not None and (other.aim, other.fingerprint) == (claim.aim, claim.fingerprint)
    )


def beat_path(store: Store, directory: str, claim: int) -> str:
    return f"{store.path(directory)}/claims/{claim:06}.beat"


def newer_claim(store: Store, directory: str, claim: Claim) -> bool:
    """Whether another launch has taken the step over."""
    return _numbers(store.names(f"{store.path(directory)}/claims"))[-1:] != [claim.number]


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


def _numbers(names: list[str]) -> list[int]:
    return sorted(int(match[1]) for match in map(_NUMBERED.fullmatch, names) if match)


def _read_json(store: Store, path: str) -> Any:
    data = store.read(path)
    return None if data is None else json.loads(data)


def _to_json(value: Any) -> bytes:
    return canonical_json(dataclasses.asdict(value)).encode()


def _boot_id() -> str | None:
    return _read_text("/proc/sys/kernel/random/boot_id")


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _start_time(pid: int) -> str | None:
    """Clock ticks after boot at which the process started; None when it is gone or a zombie."""
    stat = _read_text(f"/proc/{pid}/stat")
    if stat is None:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else fields[19]


def _read_text(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None
