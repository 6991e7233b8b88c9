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
import hashlib
import json
import math
import re
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from marin_sft.errors import DamagedFile, StoreError
from marin_sft.execution.documents import read_document
from marin_sft.execution.fingerprint import Payload, canonical_json
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.store import FileInfo, Store
from marin_sft.progress import Progress

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
    """Why an attempt failed. `location` is the last frame in the user's code, "file:line in function". `resumable`: a
    later attempt may go on from what this one wrote; not where that was made from other inputs."""

    error: str
    location: str | None
    traceback: str
    resumable: bool = True


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
class _Beat:
    count: int
    time: float
    progress: Progress | None
    released: bool = False


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
    failure = read_failure(store, directory, claim.number)
    return dataclasses.replace(
        state,
        commit=commit,
        claim=claim,
        failure=failure,
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
    advice = "a gc that was removing a part of the step wrote it; removed by hand, what is left of that part is kept"
    return read_document(store, tombstone_path(store, directory), Tombstone, advice)


def write_tombstone(store: Store, directory: str, tombstone: Tombstone) -> bool:
    """False when there is one already."""
    return store.create_exclusive(tombstone_path(store, directory), _to_json(tombstone))


def _newest_commit(store: Store, directory: str, numbers: list[int], tombstone: Tombstone | None) -> Commit | None:
    removed = tombstone.commits if tombstone else ()
    commits = [number for number in numbers if number not in removed]
    return read_commit(store, directory, commits[-1]) if commits else None


def read_commit(store: Store, directory: str, number: int) -> Commit | None:
    path = f"{store.path(directory)}/commits/{number:06}.json"
    advice = (
        "put it back from a copy; or remove it, and run the step again with --force_run: until then an older commit of "
        "it counts, if it has one"
    )
    return read_document(store, path, Commit, advice, lambda commit: _fits(commit, number))


def read_claim(store: Store, directory: str, number: int) -> Claim | None:
    path = f"{store.path(directory)}/claims/{number:06}.json"
    output = attempt_path(store, directory, number)
    advice = f"if no launch works on the step, remove it, and {output} unless a commit names that attempt"
    return read_document(store, path, Claim, advice, lambda claim: _fits(claim, number))


def _fits(document: Claim | Commit, number: int) -> bool:
    """A claim or a commit says of itself what its name says, and when it was made."""
    return document.number == number and math.isfinite(seconds_since_epoch(document.time))


def take_claim(store: Store, directory: str, number: int, aim: int, fingerprint: str) -> Claim | None:
    """Claim the step for this process; None when another launch took the number first."""
    claim = Claim(number, aim, fingerprint, ProcessIdentity.current(), now())
    if store.create_exclusive(f"{store.path(directory)}/claims/{number:06}.json", _to_json(claim)):
        return claim
    return None


def output_digest(files: list[FileInfo]) -> str | None:
    """Of an output as a whole; None when a file has none."""
    if any(file.digest is None for file in files):
        return None
    return hashlib.sha256(canonical_json([list(file) for file in files]).encode()).hexdigest()


def damaged_files(store: Store, output: str) -> list[str]:
    """The files of a committed output that are gone, or have another size, as far as its list of files can be read."""
    committed = committed_files(store, output)
    try:
        there = store.sizes(output)
    except StoreError:
        return []
    return [file.path for file in committed if there.get(file.path) != file.size]


def committed_files(store: Store, output: str) -> list[FileInfo]:
    """What a committed output lists as its files; nothing where the list cannot be read."""
    try:
        return [FileInfo(**file) for file in json.loads(store.read(f"{output}/.files.json") or b"[]")]
    except (ValueError, TypeError):
        return []


def publish(store: Store, directory: str, commit: Commit) -> Commit | None:
    """Commit the attempt, or adopt the commit of the same step that another launch published under this number first.

    None where the number is another step's: two may share a directory that was chosen for them.
    """
    if store.create_exclusive(f"{store.path(directory)}/commits/{commit.number:06}.json", _to_json(commit)):
        try:
            store.point_latest(store.path(directory), str(commit.attempt))
        except OSError as error:  # it is for people alone: the commit stands
            print(f"warning: {directory}/latest does not lead to attempt {commit.attempt}: {error}", file=sys.stderr)
        return commit
    found = read_commit(store, directory, commit.number)
    return found if found is not None and found.fingerprint == commit.fingerprint else None


def write_failure(store: Store, directory: str, attempt: int, failure: Failure) -> None:
    """Mark an attempt as failed: by its owner, or by the launch that saw its worker die."""
    text = json.dumps(dataclasses.asdict(failure), indent=1)
    store.replace(f"{attempt_path(store, directory, attempt)}/.failure.json", text.encode())


def read_failure(store: Store, directory: str, attempt: int) -> Failure | None:
    """Why an attempt failed. That there is a record says that it has failed, even when the record is damaged."""
    path = f"{attempt_path(store, directory, attempt)}/.failure.json"
    try:
        return read_document(store, path, Failure, "how the attempt failed, only its log may say")
    except DamagedFile as error:
        return Failure(str(error), None, "")


def resumable_attempts(store: Store, directory: str, claim: Claim) -> tuple[str, ...]:
    """The directories of the attempts that `claim` may resume from, newest first."""
    numbers = [n for n in claim_numbers(store, directory) if n < claim.number]
    earlier = [read_claim(store, directory, n) for n in reversed(numbers)]
    return tuple(
        attempt_path(store, directory, other.number)
        for other in earlier
        if other is not None
        and (other.aim, other.fingerprint) == (claim.aim, claim.fingerprint)
        and _is_resumable(store, directory, other.number)
    )


def _is_resumable(store: Store, directory: str, attempt: int) -> bool:
    failure = read_failure(store, directory, attempt)
    return failure is None or failure.resumable


def beat_path(store: Store, directory: str, claim: int) -> str:
    return f"{store.path(directory)}/claims/{claim:06}.beat"


def read_beat(store: Store, directory: str, claim: int) -> dict[str, Any]:
    """What `write_beat` wrote last; empty before the first beat, and when it cannot be read: a power cut may have left
    it empty, and the next beat is soon there."""
    try:
        path = beat_path(store, directory, claim)
        beat = read_document(store, path, _Beat, "", lambda beat: math.isfinite(beat.time))
    except DamagedFile:
        return {}
    return dataclasses.asdict(beat) if beat else {}


def newer_claim(store: Store, directory: str, claim: Claim) -> bool:
    """Whether another launch has taken the step over. That a listing lacks the claim itself says nothing."""
    return max(claim_numbers(store, directory), default=0) > claim.number


def write_beat(
    store: Store, directory: str, claim: Claim, count: int, progress: Any, *, released: bool = False
) -> None:
    """For the owner of a claim only. `released`: it has stopped, and whoever wants the step may go on with it."""
    beat = {"count": count, "time": time.time(), "progress": progress, "released": released}
    # float: a figure may be a scalar of numpy's or JAX's, and an owner that cannot beat counts as dead.
    data = json.dumps(beat, default=float).encode()
    store.replace(beat_path(store, directory, claim.number), data, durable=False)


class Watch:
    """Judges owners of claims by their beats, on this process's own clock: clocks of two machines never meet."""

    def __init__(self, store: Store, timeout: float) -> None:
        self._store = store
        self._timeout = timeout
        self._seen: dict[tuple[str, int], tuple[bytes | None, float]] = {}

    def stands_still(self, directory: str, claim: Claim) -> bool:
        """True once the owner's beat has not moved for the timeout since this watch first looked."""
        try:
            beat = self._store.read(beat_path(self._store, directory, claim.number))
        except IsADirectoryError:
            beat = None
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


def _to_json(value: Any) -> bytes:
    return canonical_json(dataclasses.asdict(value)).encode()
