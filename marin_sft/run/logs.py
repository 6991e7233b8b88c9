"""Reading and following the log of an attempt."""

from __future__ import annotations

import codecs
import json
import time
from collections.abc import Iterator

from marin_sft.errors import UserError
from marin_sft.execution.claims import Watch, attempt_path, claim_numbers
from marin_sft.execution.step_state import read_state
from marin_sft.execution.store import Store
from marin_sft.nearest import listed

_OF_RANK = ".log-"  # then the number of the rank
_CHUNK = 1 << 20  # bytes read at once
_POLL = 0.5  # seconds between two polls
_SILENCE = 90.0  # seconds without a beat after which an attempt is considered ended


def log_path(store: Store, directory: str, attempt: int | None, rank: int | None = None) -> tuple[int, str]:
    """The number of the attempt, by default the newest, and the path of its log.

    rank: of a step on several hosts; None: the log of the step, in which rank 0 prints.

    Raises:
        UserError: the step has no attempts, or not that one, or no such rank.
    """
    numbers = claim_numbers(store, directory)
    if not numbers:
        raise UserError(f"{directory}: the step was never started, so there is no log")
    chosen = attempt or numbers[-1]
    if chosen not in numbers:
        there = listed([str(number) for number in numbers], str(chosen))
        raise UserError(f"{directory}: no attempt {chosen}; there are: {there}")
    output = attempt_path(store, directory, chosen)
    if rank is None:
        return chosen, f"{output}/.log"
    ranks = sorted(int(name[len(_OF_RANK) :]) for name in store.names(output) if name.startswith(_OF_RANK))
    if rank not in ranks:
        there = f"ranks {ranks[0]} to {ranks[-1]}" if ranks else "none: the step ran on one host, or has not yet begun"
        raise UserError(f"{directory}: attempt {chosen} has no rank {rank}; there are: {there}")
    return chosen, f"{output}/{_OF_RANK}{rank}"


def read_log(store: Store, path: str) -> Iterator[bytes]:
    """The current log, in chunks."""
    offset = 0
    while chunk := store.read_from(path, offset, _CHUNK):
        offset += len(chunk)
        yield chunk


def log_json(store: Store, attempt: int, path: str) -> Iterator[str]:
    """`{"attempt", "path", "log"}`, in chunks."""
    head = json.dumps({"attempt": attempt, "path": path, "log": ""}, indent=1)
    yield head.removesuffix('"\n}')
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    for chunk in read_log(store, path):
        yield json.dumps(decode(chunk))[1:-1]
    yield json.dumps(decode(b"", True))[1:-1] + '"\n}\n'


def follow_log(store: Store, directory: str, attempt: int, path: str) -> Iterator[bytes]:
    """The current log, then what is added to it, until the attempt has ended."""
    watch, offset = Watch(store, _SILENCE), 0
    while True:
        # First check for the end, so that everything written before it is read.
        ended = _has_ended(store, directory, attempt, watch)
        while chunk := store.read_from(path, offset, _CHUNK):
            offset += len(chunk)
            yield chunk
        if ended:
            return
        time.sleep(_POLL)


def _has_ended(store: Store, directory: str, attempt: int, watch: Watch) -> bool:
    state = read_state(store, directory)
    if state.claim is None or state.claim.number != attempt or not state.running:
        return True
    return watch.stands_still(directory, state.claim)
