"""What under a prefix is still wanted, and by what; the rest is garbage. Reads only.

Roots are the launches kept by policy, launches that run, pins, and whatever a live owner claims. A kept step keeps its
newest commit, the attempts that kept launches used, and those that a retry would resume from. A launch that runs, and
a path written by hand into a kept launch's config, keep all there is of a step.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from marin_sft.errors import UserError
from marin_sft.execution.attempt import (
    Claim,
    Commit,
    Tombstone,
    attempt_path,
    claim_numbers,
    commit_numbers,
    read_beat,
    read_claim,
    read_commit,
    read_tombstone,
    seconds_since_epoch,
)
from marin_sft.execution.catalog import in_parallel, location, step_directories
from marin_sft.execution.pins import read_pins
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.record import Launch, read_begin, read_end, read_launches
from marin_sft.execution.store import Store

_HOUR, _DAY = 3600.0, 86400.0
_SILENT = 1 * _DAY  # after which an owner out of sight whose beat is as old is taken for dead
_UNENDED = 30 * _DAY  # for which a launch out of sight that never ended is taken to run


@dataclass(frozen=True)
class GcPolicy:
    """Launches are kept that are among the newest `keep_runs`, or younger than `keep_days`.

    Nothing younger than `grace_hours` is ever removed, nor what was superseded more recently than that.
    """

    keep_runs: int = 20
    keep_days: float = 14.0
    grace_hours: float = 24.0


@dataclass(frozen=True)
class Attempt:
    """`time`: seconds since the epoch at which it last showed life. `live`: a live owner works on it."""

    number: int
    aim: int
    time: float
    live: bool
    claim: Claim | None


@dataclass(frozen=True)
class Contents:
    """All there is of a step. `leftovers`: paths of temporary files of writers that were killed."""

    directory: str
    commits: tuple[Commit, ...]
    attempts: tuple[Attempt, ...]
    leftovers: tuple[str, ...]
    tombstone: Tombstone | None

    @property
    def newest(self) -> Commit | None:
        return self.commits[-1] if self.commits else None

    @property
    def aim(self) -> int:
        """The highest commit number there is, or is aimed at."""
        return max([0, *(commit.number for commit in self.commits), *(attempt.aim for attempt in self.attempts)])


@dataclass(frozen=True)
class Garbage:
    """What nothing wants of a step: all of it (`whole`), or superseded commits and attempts."""

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
    """What is garbage, and for each kept directory the roots that keep it.

    `unfinished` is what a gc that died was removing. `launches` are those that were taken into account.
    """

    garbage: tuple[Garbage, ...]
    unfinished: tuple[Garbage, ...]
    kept: Mapping[str, tuple[str, ...]]
    launches: frozenset[str]


@dataclass
class _Roots:
    """By the location of steps: what keeps them, which attempts kept launches used, and where all has to stay."""

    reasons: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    used: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    whole: set[str] = field(default_factory=set)
    paths: dict[str, str] = field(default_factory=dict)


def find_garbage(store: Store, policy: GcPolicy) -> Reachability:
    """Which steps and attempts no root keeps.

    Raises:
        UserError: where no launch is recorded, as all would be garbage.
    """
    moment = time.time()
    # Launches first: one that begins while the steps are listed is seen as new when its steps are looked at again.
    launches = read_launches(store)
    directories = step_directories(store)
    if directories and not launches and (policy.keep_runs or policy.keep_days):
        raise UserError(
            f"no launch is recorded under {store.prefix}/_runs, so all {len(directories)} steps would be garbage; "
            "if that is meant, say --keep_runs 0 --keep_days 0"
        )
    contents = in_parallel(store, lambda directory: read_contents(store, directory), directories)
    roots = _find_roots(store, policy, launches, contents, moment)
    kept = {step.directory: _reasons(store, step, roots, policy, moment) for step in contents}
    unfinished = [_begun(store, step, step.tombstone) for step in contents if step.tombstone is not None]
    garbage = []
    for step in contents:
        whole = not kept[step.directory]
        commits, attempts = _everything(step) if whole else _unwanted(store, step, roots, policy, moment)
        if step.tombstone is None and (attempts or whole):
            garbage.append(Garbage(step, whole, commits, attempts, _size(store, step, attempts)))
    return Reachability(
        tuple(garbage),
        tuple(unfinished),
        {directory: reasons for directory, reasons in kept.items() if reasons},
        frozenset(launch.name for launch in launches),
    )


def _begun(store: Store, step: Contents, tombstone: Tombstone) -> Garbage:
    left = set(_everything(step)[1]) - set(tombstone.attempts)
    size = _size(store, step, tombstone.attempts)
    return Garbage(step, not left, tombstone.commits, tombstone.attempts, size)


def _size(store: Store, step: Contents, attempts: Iterable[int]) -> int:
    return sum(store.size(attempt_path(store, step.directory, number)) for number in attempts)


def read_contents(store: Store, directory: str) -> Contents:
    root = store.path(directory)
    found = (read_commit(store, directory, number) for number in commit_numbers(store, directory))
    commits = tuple(commit for commit in found if commit is not None)
    folders = {int(name) for name in store.folders(root) if name.isdigit()}
    numbers = sorted(folders | set(claim_numbers(store, directory)))
    ended = {commit.attempt: seconds_since_epoch(commit.time) for commit in commits}
    attempts = tuple(_read_attempt(store, directory, number, ended.get(number)) for number in numbers)
    leftovers = [
        f"{place}/{name}"
        for place in (root, f"{root}/claims", f"{root}/commits")
        for name in store.names(place)
        if name.startswith(".")
    ]
    return Contents(directory, commits, attempts, tuple(leftovers), read_tombstone(store, directory))


def _read_attempt(store: Store, directory: str, number: int, committed: float | None) -> Attempt:
    claim = read_claim(store, directory, number)
    if claim is None:
        return Attempt(number, 0, committed or 0.0, False, None)
    beat = read_beat(store, directory, number)
    last = max(seconds_since_epoch(claim.time), beat.get("time", 0.0), committed or 0.0)
    live = committed is None and not beat.get("released") and _lives(claim.owner, last, _SILENT)
    if live:
        # A worker process outlives its attempt, and begins the next one.
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
    """`reason` is None for a launch that is kept only if it runs."""
    begin = read_begin(store, launch)
    places = [location(store, step["directory"]) for step in begin["steps"]]
    # A worker may outlive its launch and still read inputs: its claim stands for the launch.
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
        return (), ()  # somebody may still be reading what it replaced
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
