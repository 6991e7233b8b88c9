"""Claims on a step, and the beats by which their owners show that they are alive.

    {directory}/claims/000003.json   create-exclusive; its number is the epoch and the attempt's name
    {directory}/claims/000003.beat   rewritten by the owner: a counter, and how far the step is
    {directory}/3/                   the attempt

Claims save work. Correctness never depends on them: of two owners of a step, only one can commit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from typing import Any

from marin_sft.errors import DamagedFile
from marin_sft.execution.clock import now, seconds_since_epoch
from marin_sft.execution.documents import numbers_of, read_document, to_json
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.store import Store
from marin_sft.progress import Progress


@dataclass(frozen=True)
class Claim:
    """Who works on a step. `number` is the epoch: a higher one fences off a lower one."""

    number: int
    aim: int
    fingerprint: str
    owner: ProcessIdentity
    time: str


@dataclass(frozen=True)
class _Beat:
    count: int
    time: float
    progress: Progress | None
    released: bool = False


def attempt_path(store: Store, directory: str, attempt: int) -> str:
    return f"{store.path(directory)}/{attempt}"


def claim_numbers(store: Store, directory: str) -> list[int]:
    return numbers_of(store.names(f"{store.path(directory)}/claims"))


def read_claim(store: Store, directory: str, number: int) -> Claim | None:
    path = f"{store.path(directory)}/claims/{number:06}.json"
    output = attempt_path(store, directory, number)
    advice = f"if no launch works on the step, remove it, and {output} unless a commit names that attempt"
    return read_document(
        store,
        path,
        Claim,
        advice,
        lambda claim: claim.number == number and math.isfinite(seconds_since_epoch(claim.time)),
    )


def take_claim(store: Store, directory: str, number: int, aim: int, fingerprint: str) -> Claim | None:
    """Claim the step for this process; None when another launch took the number first."""
    claim = Claim(number, aim, fingerprint, ProcessIdentity.current(), now())
    if store.create_exclusive(f"{store.path(directory)}/claims/{number:06}.json", to_json(claim)):
        return claim
    return None


def newer_claim(store: Store, directory: str, claim: Claim) -> bool:
    """Whether another launch has taken the step over. That a listing lacks the claim itself says nothing."""
    return max(claim_numbers(store, directory), default=0) > claim.number


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
