"""Garbage collection by reachability: removes what no root keeps, and never what a running launch needs.

A launch writes its record, then reads the state of its steps. gc writes a tombstone into a step, then looks for new
records, claims and pins. So in any order one of the two sees the other. Either gc finds the record and removes its
tombstone again, or the launch finds the tombstone and treats the output as gone; its attempts then get numbers above
everything that is being removed. Only then does gc remove the commits, then claims, then bytes, and the tombstone last.
So there is never a commit without its bytes, nor an attempt to resume from that has lost some of its files.

Only one collection runs at a time: it holds a claim on `{prefix}/_gc`, as an attempt does on its step. If it is killed,
the next one finishes its work.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from marin_sft.errors import StoreError
from marin_sft.execution.catalog import location
from marin_sft.execution.claims import (
    Claim,
    attempt_path,
    beat_path,
    claim_numbers,
    newer_claim,
    read_beat,
    read_claim,
    take_claim,
    write_beat,
)
from marin_sft.execution.clock import now, seconds_since_epoch
from marin_sft.execution.commits import commit_numbers
from marin_sft.execution.local_store import LATEST
from marin_sft.execution.pins import read_pins
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.reachability import Garbage, GcPolicy, Reachability, find_garbage
from marin_sft.execution.record import read_begin, read_launches
from marin_sft.execution.step_state import Tombstone, tombstone_path, write_tombstone
from marin_sft.execution.store import Store

_LOCK = "_gc"
_SILENT = 86400.0  # seconds without a beat after which a collection on another machine is considered dead


@dataclass(frozen=True)
class Collected:
    """The result for one step. `detail` explains it.

    removed: nothing needs it.
    rescued: something needs it after all.
    failed: the store refused; the next gc continues.
    left: it stays, because a file in it is unreadable.
    """

    directory: str
    result: Literal["removed", "rescued", "failed", "left"]
    whole: bool
    attempts: int
    bytes: int
    detail: str = ""


def collect_garbage(
    store: Store, policy: GcPolicy, tell: Callable[[Collected], None] = lambda collected: None
) -> list[Collected]:
    """Remove what `find_garbage` finds. `tell` is called after each step.

    Raises:
        StoreError: another collection is running, or has taken over because this one did not beat for a day.
        UserError: see `find_garbage`.
    """
    done: list[Collected] = []
    with _only_one(store) as claim:
        found = find_garbage(store, policy)
        for garbage in (*found.unfinished, *found.garbage):
            if newer_claim(store, _LOCK, claim):
                raise StoreError(f"another gc took over {store.prefix}; this one stops")
            write_beat(store, _LOCK, claim, len(done), None)
            done.append(_collect(store, garbage, found))
            tell(done[-1])
        for directory, path in found.unreadable.items():
            done.append(Collected(directory, "left", False, 0, 0, f"{path} cannot be read"))
            tell(done[-1])
        for directory in found.hollow:  # removes only empty folders, left by a gc or launch that was killed
            store.prune(f"{store.path(directory)}/commits")
            store.prune(f"{store.path(directory)}/claims")
    return done


@contextlib.contextmanager
def _only_one(store: Store) -> Iterator[Claim]:
    numbers = claim_numbers(store, _LOCK)
    last = read_claim(store, _LOCK, numbers[-1]) if numbers else None
    if last is not None and _runs(store, last):
        raise StoreError(
            f"gc of {store.prefix} has been running since {last.time}: process {last.owner.pid} on {last.owner.host}; "
            "wait for it to end, or stop it first"
        )
    claim = take_claim(store, _LOCK, numbers[-1] + 1 if numbers else 1, 0, "gc")
    if claim is None:
        raise StoreError(f"another gc of {store.prefix} has just started; wait for it to end")
    for number in numbers:
        store.remove(f"{store.path(_LOCK)}/claims/{number:06}.json")
        store.remove(beat_path(store, _LOCK, number))
    try:
        yield claim
    finally:
        write_beat(store, _LOCK, claim, -1, None, released=True)


def _runs(store: Store, claim: Claim) -> bool:
    beat = read_beat(store, _LOCK, claim.number)
    if beat.get("released") or claim.owner.is_gone():
        return False
    return claim.owner.in_sight or time.time() - beat.get("time", seconds_since_epoch(claim.time)) < _SILENT


def _collect(store: Store, garbage: Garbage, found: Reachability) -> Collected:
    def ended(result: Literal["removed", "rescued", "failed"], detail: str = "") -> Collected:
        size = garbage.bytes if result == "removed" else 0
        return Collected(garbage.directory, result, garbage.whole, len(garbage.attempts), size, detail)

    try:
        if garbage.contents.tombstone is None:
            if not write_tombstone(store, garbage.directory, _tombstone(garbage)):
                return ended("failed", "another gc has just written its tombstone there")
            wanted = _wanted_since(store, garbage, found.launches)
        else:
            wanted = _wanted_still(store, garbage, found)
        if wanted:
            store.remove(tombstone_path(store, garbage.directory))
            return ended("rescued", wanted)
        _remove(store, garbage)
        return ended("removed")
    except OSError as error:
        return ended("failed", str(error))


def _tombstone(garbage: Garbage) -> Tombstone:
    attempts = [attempt.aim for attempt in garbage.contents.attempts if attempt.number in garbage.attempts]
    aim = max([0, *garbage.commits, *attempts])
    return Tombstone(garbage.commits, garbage.attempts, aim, ProcessIdentity.current(), now())


def _wanted_since(store: Store, garbage: Garbage, known: frozenset[str]) -> str:
    """What has come to want the step since it was found to be garbage; empty for nothing."""
    place = location(store, garbage.directory)
    for launch in read_launches(store):
        if launch.name in known:
            continue
        begin = read_begin(store, launch)
        if any(location(store, step["directory"]) == place for step in begin["steps"]):
            return f"launch {launch.name}, just begun"
        if any(f"{location(store, path)}/".startswith(f"{place}/") for path in begin["paths"]):
            return f"launch {launch.name}, just begun, by a path in a config"
    if garbage.whole and any(location(store, pin.directory) == place for pin in read_pins(store)):
        return "just pinned"
    contents = garbage.contents
    if not {attempt.number for attempt in contents.attempts}.issuperset(claim_numbers(store, garbage.directory)):
        return "just claimed"
    if not {commit.number for commit in contents.commits}.issuperset(commit_numbers(store, garbage.directory)):
        return "just committed"
    return ""


def _wanted_still(store: Store, garbage: Garbage, found: Reachability) -> str:
    """What wants a step that a gc which died was about to remove, if all of it is still there.

    A launch that began since then has taken it for gone, so a tombstone can also be carried out.
    """
    directory = garbage.directory
    intact = set(garbage.commits).issubset(commit_numbers(store, directory)) and set(garbage.attempts).issubset(
        claim_numbers(store, directory)
    )
    return next(iter(found.kept.get(directory, ())), "") if intact else ""


def _remove(store: Store, garbage: Garbage) -> None:
    """Commits first: there must be none without its bytes. Claims next: nothing may resume from half an attempt."""
    directory, root = garbage.directory, store.path(garbage.directory)
    for number in garbage.commits:  # upwards, so that whoever reads without a record sees the newest until the end
        store.remove(f"{root}/commits/{number:06}.json")
    for number in garbage.attempts:
        store.remove(f"{root}/claims/{number:06}.json")
        store.remove(beat_path(store, directory, number))
    if garbage.whole:
        if LATEST not in store.folders(root):  # ours is a link
            store.remove(f"{root}/{LATEST}")
    elif garbage.contents.newest is not None:
        store.point_latest(root, str(garbage.contents.newest.attempt))
    for number in garbage.attempts:
        store.remove(attempt_path(store, directory, number))
    for path in garbage.contents.leftovers if garbage.whole else ():
        store.remove(path)
    store.prune(f"{root}/commits")
    store.remove(tombstone_path(store, directory))
    store.prune(f"{root}/claims")
