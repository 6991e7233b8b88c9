"""The state of a step: its newest commit, claim and failure. It is derived from what exists in the store.

    {directory}/claims/, commits/       see `claims` and `commits`
    {directory}/claims/tombstone.json   create-exclusive: commits and attempts under removal, gone to all but gc
    {directory}/3/                      the attempt: outputs, .files.json, .record.json, .log, .failure.json

An attempt aims at one commit number. It may resume only from earlier attempts with the same aim and fingerprint.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from marin_sft.errors import DamagedFile
from marin_sft.execution.claims import Claim, attempt_path, claim_numbers, read_beat, read_claim
from marin_sft.execution.commits import Commit, commit_numbers, read_commit
from marin_sft.execution.documents import numbers_of, read_document, to_json
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.store import Store
from marin_sft.progress import Progress

_TOMBSTONE = "tombstone.json"


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    location: the last frame in the user's code, "file:line in function".
    resumable: whether a later attempt may resume from it. False if its inputs changed while it ran.
    """

    error: str
    location: str | None
    traceback: str
    resumable: bool = True


@dataclass(frozen=True)
class Tombstone:
    """What a garbage collection is removing from a step.

    aim: the highest commit number that is removed or was aimed at. New attempts aim above it, so that none of them
        resumes from what is being removed.
    """

    commits: tuple[int, ...]
    attempts: tuple[int, ...]
    aim: int
    owner: ProcessIdentity
    time: str


@dataclass(frozen=True)
class StepState:
    """The state of a step in the store.

    commit: the newest commit.
    claim: the newest claim, if it may still lead to a commit.
    failure: how that claim's attempt failed.
    owner_gone: whether the claim's owner is known to have ended, or has released the claim.
    last_claim: the highest claim number; the next owner has to create the number after it.
    beat_time: when the owner last beat, by its own clock.
    progress: what the owner last said of its progress.
    last_aim: the highest commit number that is being removed, see `Tombstone`.
    """

    commit: Commit | None = None
    claim: Claim | None = None
    failure: Failure | None = None
    owner_gone: bool = False
    last_claim: int = 0
    beat_time: float | None = None
    progress: Progress | None = None
    last_aim: int = 0

    @property
    def next_aim(self) -> int:
        """The commit number that the next attempt aims at."""
        if self.claim is not None:
            return self.claim.aim
        return max(self.commit.number if self.commit else 0, self.last_aim) + 1

    @property
    def kept(self) -> float:
        """The part of the work that the next attempt can continue from, see `progress.kept`."""
        return self.progress.kept if self.progress else 0

    @property
    def begun(self) -> bool:
        """Whether anyone ever worked on the step. If not, its directory is not ours or does not exist."""
        return self.commit is not None or self.last_claim > 0

    @property
    def running(self) -> bool:
        """Whether there is an unfinished claim whose owner is alive or not in sight."""
        return self.claim is not None and self.failure is None and not self.owner_gone


def read_state(store: Store, directory: str) -> StepState:
    """The state of the step in `directory` (relative to the prefix, or absolute), without what is being removed."""
    root = store.path(directory)
    # The tombstone before the commits: gc removes it last, so without one nothing is half removed.
    in_claims, in_commits = store.names_of(root, ("claims", "commits"))
    tombstone = read_tombstone(store, directory) if _TOMBSTONE in in_claims else None
    commit = _newest_commit(store, directory, numbers_of(in_commits), tombstone)
    claims = numbers_of(in_claims)
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
    # Only now, since an owner that has just ended may have committed or failed as its last act.
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
        progress=Progress(**beat["progress"]) if beat.get("progress") else None,
    )


def has_step(store: Store, directory: str) -> bool:
    """Whether there are claims, commits or a tombstone, judged by names alone."""
    in_claims, in_commits = store.names_of(store.path(directory), ("claims", "commits"))
    return bool(numbers_of(in_claims) or numbers_of(in_commits) or _TOMBSTONE in in_claims)


def tombstone_path(store: Store, directory: str) -> str:
    return f"{store.path(directory)}/claims/{_TOMBSTONE}"  # listed together with the claims


def read_tombstone(store: Store, directory: str) -> Tombstone | None:
    advice = "gc wrote it while it removed a part of the step; if you remove it, the rest of that part is kept"
    return read_document(store, tombstone_path(store, directory), Tombstone, advice)


def write_tombstone(store: Store, directory: str, tombstone: Tombstone) -> bool:
    """False if there is one already."""
    return store.create_exclusive(tombstone_path(store, directory), to_json(tombstone))


def _newest_commit(store: Store, directory: str, numbers: list[int], tombstone: Tombstone | None) -> Commit | None:
    removed = tombstone.commits if tombstone else ()
    commits = [number for number in numbers if number not in removed]
    return read_commit(store, directory, commits[-1]) if commits else None


def write_failure(store: Store, directory: str, attempt: int, failure: Failure) -> None:
    """Mark an attempt as failed: by its owner, or by the launch that saw its worker die."""
    text = json.dumps(dataclasses.asdict(failure), indent=1)
    store.replace(f"{attempt_path(store, directory, attempt)}/.failure.json", text.encode())


def read_failure(store: Store, directory: str, attempt: int) -> Failure | None:
    """Why an attempt failed; None if it did not. A damaged record also means that it failed."""
    path = f"{attempt_path(store, directory, attempt)}/.failure.json"
    try:
        return read_document(store, path, Failure, "see the attempt's log for how it failed")
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
