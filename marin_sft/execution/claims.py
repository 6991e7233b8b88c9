"""Claims on a step, and the beats by which their owners show that they are alive.

    {directory}/claims/000003.json   create-exclusive; its number is the epoch, and names the attempt
    {directory}/claims/000003.beat   rewritten by the owner: a counter, and the progress
    {directory}/3/                   the attempt

Claims save work. Correctness never depends on them: of two owners of a step, only one can commit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass, field

from marin_sft.errors import DamagedFile
from marin_sft.execution.clock import now, seconds_since_epoch
from marin_sft.execution.documents import JsonObject, numbers_of, read_document, to_json
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.store import Store
from marin_sft.progress import Progress


@dataclass(frozen=True)
class Claim:
    """Who works on a step. `number` is the epoch: a higher number fences off lower ones.

    run: the launch. resources: what the attempt holds, as `record.describe` writes it. Both tell what an attempt cost
        that was lost, and so has no record. None: an older version made the claim.
    """

    number: int
    aim: int
    fingerprint: str
    owner: ProcessIdentity
    time: str
    run: str | None = None
    resources: JsonObject | None = field(default=None, hash=False)


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
    advice = f"if no launch is running the step, remove it, and also {output} unless a commit names that attempt"
    return read_document(
        store,
        path,
        Claim,
        advice,
        lambda claim: claim.number == number and math.isfinite(seconds_since_epoch(claim.time)),
    )


def take_claim(
    store: Store,
    directory: str,
    number: int,
    aim: int,
    fingerprint: str,
    run: str | None = None,
    resources: JsonObject | None = None,
) -> Claim | None:
    """Claim the step for this process. None if another launch took the number first."""
    claim = Claim(number, aim, fingerprint, ProcessIdentity.current(), now(), run, resources)
    if store.create_exclusive(f"{store.path(directory)}/claims/{number:06}.json", to_json(claim)):
        return claim
    return None


def newer_claim(store: Store, directory: str, claim: Claim) -> bool:
    """Whether another launch has taken the step over. Listings may lag, so `claim` itself may be missing."""
    return max(claim_numbers(store, directory), default=0) > claim.number


def beat_path(store: Store, directory: str, claim: int) -> str:
    return f"{store.path(directory)}/claims/{claim:06}.beat"


def read_beat(store: Store, directory: str, claim: int) -> JsonObject:
    """What `write_beat` wrote last. Empty before the first beat, and if it cannot be read: a power cut may have emptied
    it, and the next beat will come soon."""
    try:
        path = beat_path(store, directory, claim)
        beat = read_document(store, path, _Beat, "", lambda beat: math.isfinite(beat.time))
    except DamagedFile:
        return {}
    return dataclasses.asdict(beat) if beat else {}


def write_beat(
    store: Store, directory: str, claim: Claim, count: int, progress: JsonObject | None, *, released: bool = False
) -> None:
    """Only the owner of the claim calls this. released: the owner has stopped, and anyone may continue the step."""
    beat = {"count": count, "time": time.time(), "progress": progress, "released": released}
    # default=float: a metric may be a numpy or JAX scalar, and an owner that cannot beat is considered dead.
    data = json.dumps(beat, default=float).encode()
    store.replace(beat_path(store, directory, claim.number), data, durable=False)


class Watch:
    """Judges by their beats whether owners are alive. It uses only this process's clock; clocks are never compared."""

    def __init__(self, store: Store, timeout: float) -> None:
        self._store = store
        self._timeout = timeout
        self._seen: dict[tuple[str, int], tuple[bytes | None, float]] = {}

    def stands_still(self, directory: str, claim: Claim) -> bool:
        """Whether the owner's beat has not changed for longer than the timeout since this watch first saw it."""
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
