"""What is still needed under a prefix, and by what. The rest is garbage. Only reads.

Roots are launches kept by policy, running launches, pins, and steps claimed by a live owner. A kept step keeps its
newest commit, the attempts that kept launches used, and those that a retry would resume from. A running launch, and a
path written by hand into the config of a kept launch, keep everything of a step.

Only what our own claims and commits name can be garbage. Other files and folders, nested stores, and steps with an
unreadable claim or commit are never garbage.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from marin_sft.errors import MarinSftError, UserError
from marin_sft.execution.catalog import in_parallel, location, read_catalog
from marin_sft.execution.claims import Claim, attempt_path, claim_numbers, read_beat, read_claim
from marin_sft.execution.clock import seconds_since_epoch
from marin_sft.execution.commits import Commit, commit_numbers, read_commit
from marin_sft.execution.pins import read_pins
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.record import Launch, read_begin, read_end, read_launches
from marin_sft.execution.step_state import Tombstone, read_tombstone, tombstone_path
from marin_sft.execution.store import Store

RecordT = TypeVar("RecordT", Claim, Commit)

_HOUR, _DAY = 3600.0, 86400.0
_SILENT = 1 * _DAY  # an owner out of sight is considered dead if its last beat is older
_UNENDED = 30 * _DAY  # a launch out of sight that never ended is considered running for this long
_TEMPORARY = re.compile(r"\.(.+\.|latest-)[0-9a-f]{32}")  # names of files that are still being written
_DAMAGED = (ValueError, TypeError, KeyError, MarinSftError)  # from reading damaged files


@dataclass(frozen=True)
class GcPolicy:
    """Which launches are kept.

    keep_runs: the number of newest launches to keep.
    keep_days: launches younger than this are kept, too.
    grace_hours: nothing younger than this, or superseded more recently, is removed.
    """

    keep_runs: int = 20
    keep_days: float = 14.0
    grace_hours: float = 24.0


@dataclass(frozen=True)
class Attempt:
    """time: when it last showed activity, in seconds since the epoch. live: a live owner is working on it."""

    number: int
    aim: int
    time: float
    live: bool
    claim: Claim | None


@dataclass(frozen=True)
class Contents:
    """Everything of a step.

    leftovers: paths of temporary files of killed writers.
    unreadable: paths of damaged claims, commits or tombstones.
    """

    directory: str
    commits: tuple[Commit, ...]
    attempts: tuple[Attempt, ...]
    leftovers: tuple[str, ...]
    tombstone: Tombstone | None
    unreadable: tuple[str, ...]

    @property
    def ours(self) -> bool:
        """Whether a step of ours was ever here."""
        return bool(self.commits or self.attempts or self.tombstone or self.unreadable)

    @property
    def newest(self) -> Commit | None:
        return self.commits[-1] if self.commits else None

    @property
    def aim(self) -> int:
        """The highest commit number that exists or is aimed at."""
        return max([0, *(commit.number for commit in self.commits), *(attempt.aim for attempt in self.attempts)])


@dataclass(frozen=True)
class Garbage:
    """What is not needed of a step: all of it (`whole`), or superseded commits and attempts."""

    contents: Contents
    whole: bool
    commits: tuple[int, ...]
    attempts: tuple[int, ...]
    bytes: int

    @property
    def directory(self) -> str:
        return self.contents.directory


@dataclass(frozen=True)
class Reachability:
    """What is garbage, and what is kept.

    unfinished: what a killed gc was removing.
    kept: for each kept directory, the roots that keep it.
    launches: the launches taken into account.
    unreadable: steps that stay because a file in them is unreadable, with that file's path.
    hollow: directories that look like steps but hold nothing of ours.
    stores: nested stores, which are not searched.
    """

    garbage: tuple[Garbage, ...]
    unfinished: tuple[Garbage, ...]
    kept: Mapping[str, tuple[str, ...]]
    launches: frozenset[str]
    unreadable: Mapping[str, str]
    hollow: tuple[str, ...]
    stores: tuple[str, ...]


@dataclass
class _Roots:
    """By step location: what keeps it, which attempts kept launches used, and whether everything of it stays."""

    reasons: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    used: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    whole: set[str] = field(default_factory=set)
    paths: dict[str, str] = field(default_factory=dict)


def find_garbage(store: Store, policy: GcPolicy) -> Reachability:
    """The steps and attempts that no root keeps.

    Raises:
        UserError: no launch is recorded, so that everything would be garbage.
    """
    moment = time.time()
    # Launches first: one that begins while steps are listed is then noticed as new before its steps are removed.
    launches = read_launches(store)
    catalog = read_catalog(store)
    looked_at = in_parallel(store, lambda directory: read_contents(store, directory), catalog.steps)
    contents = [step for step in looked_at if step.ours]
    if contents and not launches and (policy.keep_runs or policy.keep_days):
        raise UserError(
            f"no launch is recorded under {store.prefix}/_runs, so all {len(contents)} steps would be garbage; "
            "to remove them all, use --keep_runs 0 --keep_days 0"
        )
    roots = _find_roots(store, policy, launches, contents, moment)
    kept = {step.directory: _reasons(store, step, roots, policy, moment) for step in contents}
    readable = [step for step in contents if not step.unreadable]
    unfinished = [_begun(store, step, step.tombstone) for step in readable if step.tombstone is not None]
    garbage = []
    for step in readable:
        whole = not kept[step.directory]
        commits, attempts = _everything(step) if whole else _unwanted(store, step, roots, policy, moment)
        if step.tombstone is None and (attempts or whole):
            garbage.append(Garbage(step, whole, commits, attempts, _size(store, step, attempts)))
    return Reachability(
        tuple(garbage),
        tuple(unfinished),
        {directory: reasons for directory, reasons in kept.items() if reasons},
        frozenset(launch.name for launch in launches),
        {step.directory: step.unreadable[0] for step in contents if step.unreadable},
        tuple(step.directory for step in looked_at if not step.ours),
        catalog.stores,
    )


def _begun(store: Store, step: Contents, tombstone: Tombstone) -> Garbage:
    left = set(_everything(step)[1]) - set(tombstone.attempts)
    size = _size(store, step, tombstone.attempts)
    return Garbage(step, not left, tombstone.commits, tombstone.attempts, size)


def _size(store: Store, step: Contents, attempts: Iterable[int]) -> int:
    return sum(store.size(attempt_path(store, step.directory, number)) for number in attempts)


def read_contents(store: Store, directory: str) -> Contents:
    """What claims, commits and the tombstone name. Other folders and files in the directory are not ours."""
    root = store.path(directory)
    commits = {n: _sound(read_commit, store, directory, n) for n in commit_numbers(store, directory)}
    claims = {n: _sound(read_claim, store, directory, n) for n in claim_numbers(store, directory)}
    unreadable = [f"{root}/commits/{n:06}.json" for n, commit in commits.items() if commit is None]
    unreadable += [f"{root}/claims/{n:06}.json" for n, claim in claims.items() if claim is None]
    tombstone = None
    try:
        tombstone = read_tombstone(store, directory)
    except _DAMAGED:
        unreadable.append(tombstone_path(store, directory))
    ended = {commit.attempt: seconds_since_epoch(commit.time) for commit in commits.values() if commit}
    numbers = sorted({*claims, *ended, *(tombstone.attempts if tombstone else ())})
    return Contents(
        directory,
        tuple(commit for commit in commits.values() if commit),
        tuple(_read_attempt(store, directory, n, claims.get(n), ended.get(n)) for n in numbers),
        tuple(_leftovers(store, root)),
        tombstone,
        tuple(unreadable),
    )


def _sound(
    read: Callable[[Store, str, int], RecordT | None], store: Store, directory: str, number: int
) -> RecordT | None:
    """A claim or a commit; None if the file of that name is not ours, or is truncated."""
    try:
        found = read(store, directory, number)
        if not found or found.number != number or seconds_since_epoch(found.time) < 0:
            return None
        return found if type(found.aim if isinstance(found, Claim) else found.attempt) is int else None
    except _DAMAGED:
        return None


def _leftovers(store: Store, root: str) -> list[str]:
    places = (root, f"{root}/claims", f"{root}/commits")
    return [f"{place}/{name}" for place in places for name in store.names(place) if _TEMPORARY.fullmatch(name)]


def _read_attempt(store: Store, directory: str, number: int, claim: Claim | None, committed: float | None) -> Attempt:
    if claim is None:
        return Attempt(number, 0, committed or 0.0, False, None)
    beat = read_beat(store, directory, number)
    last = max(seconds_since_epoch(claim.time), beat.get("time", 0.0), committed or 0.0)
    live = committed is None and not beat.get("released") and _lives(claim.owner, last, _SILENT)
    if live:
        # A worker process outlives its attempt and may be running another one.
        output = attempt_path(store, directory, number)
        live = not any(store.read(f"{output}/{name}") is not None for name in (".failure.json", ".record.json"))
    return Attempt(number, claim.aim, last, live, claim)


def _lives(owner: ProcessIdentity, last_seen: float, limit: float) -> bool:
    if owner.in_sight:
        return not owner.is_gone()
    return time.time() - last_seen < limit


def _find_roots(
    store: Store, policy: GcPolicy, launches: list[Launch], contents: Iterable[Contents], moment: float
) -> _Roots:
    roots = _Roots()
    for step in contents:
        for attempt in step.attempts:
            if attempt.live and attempt.claim is not None:
                owner = attempt.claim.owner
                reason = f"attempt {attempt.number} is claimed by process {owner.pid} on {owner.host}"
                roots.reasons[location(store, step.directory)].append(reason)
    claimed = set(roots.reasons)
    for step in contents:
        for path in step.unreadable:
            roots.reasons[location(store, step.directory)].append(f"{path} cannot be read")
    for i, launch in enumerate(launches):
        age = moment - launch.time
        if i < policy.keep_runs:
            _keep_launch(store, roots, launch, f"launch {launch.name}, one of the newest {policy.keep_runs}", claimed)
        elif age < policy.keep_days * _DAY:
            _keep_launch(store, roots, launch, f"launch {launch.name}, within {policy.keep_days:g} days", claimed)
        elif not launch.ended:
            _keep_launch(store, roots, launch, None, claimed)
    for pin in read_pins(store):
        note = f": {pin.note}" if pin.note else ""
        roots.reasons[location(store, pin.directory)].append(f"pinned {pin.time[:10]}{note}")
    return roots


def _keep_launch(store: Store, roots: _Roots, launch: Launch, reason: str | None, claimed: set[str]) -> None:
    """reason: why the launch is kept; None if it is kept only while it runs."""
    begin = read_begin(store, launch)
    places = [location(store, step["directory"]) for step in begin["steps"]]
    # A worker may outlive its launch and still read inputs, so its claim counts for the launch.
    runs = not launch.ended and (not claimed.isdisjoint(places) or _runs(launch, begin))
    if runs:
        roots.whole.update(places)
        reason = f"launch {launch.name}, which has not ended"
    if reason is None:
        return
    for place in places:
        roots.reasons[place].append(reason)
    for path in begin["paths"]:
        roots.paths[location(store, path)] = f"{path} is used by {reason}"
    for result in (read_end(store, launch) or {"results": []})["results"]:
        if result["commit"] is not None:
            roots.used[location(store, result["path"])].add(result["attempt"])


def _runs(launch: Launch, begin: Mapping[str, object]) -> bool:
    owner = begin["owner"]
    return isinstance(owner, dict) and _lives(ProcessIdentity(**owner), launch.time, _UNENDED)


def _reasons(store: Store, step: Contents, roots: _Roots, policy: GcPolicy, moment: float) -> tuple[str, ...]:
    place = location(store, step.directory)
    reasons = list(roots.reasons.get(place, ()))
    reasons += _path_reasons(roots, place)
    last = max((attempt.time for attempt in step.attempts), default=0.0)
    if moment - last < policy.grace_hours * _HOUR:
        reasons.append(f"younger than {policy.grace_hours:g} hours")
    return tuple(reasons)


def _path_reasons(roots: _Roots, place: str) -> list[str]:
    return [reason for path, reason in roots.paths.items() if path == place or path.startswith(f"{place}/")]


def _everything(step: Contents) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(commit.number for commit in step.commits), tuple(attempt.number for attempt in step.attempts)


def _unwanted(
    store: Store, step: Contents, roots: _Roots, policy: GcPolicy, moment: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The superseded commits and attempts of a kept step."""
    place, newest, grace = location(store, step.directory), step.newest, policy.grace_hours * _HOUR
    if newest is None or place in roots.whole or _path_reasons(roots, place):
        return (), ()
    if moment - seconds_since_epoch(newest.time) < grace:
        return (), ()  # readers may still be using what it replaced
    wanted = {newest.attempt, *roots.used.get(place, ())}
    attempts = tuple(
        attempt.number
        for attempt in step.attempts
        if attempt.number not in wanted
        and attempt.aim <= newest.number  # else a retry would resume from it
        and not attempt.live
        and moment - attempt.time >= grace
    )
    return tuple(commit.number for commit in step.commits if commit.attempt in attempts), attempts
