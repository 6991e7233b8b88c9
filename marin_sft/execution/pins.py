"""Pins: steps that a user told gc to keep. One small object per pin, under `{prefix}/_pins`."""

from __future__ import annotations

import json
import os
import urllib.parse
from dataclasses import asdict, dataclass

from marin_sft.errors import UserError
from marin_sft.execution.clock import now
from marin_sft.execution.documents import read_document
from marin_sft.execution.step_state import read_tombstone
from marin_sft.execution.store import Store

PINS = "_pins"


@dataclass(frozen=True)
class Pin:
    """Keeps the step in `directory` (relative to the prefix), but not its inputs."""

    directory: str
    note: str
    time: str


def read_pins(store: Store) -> list[Pin]:
    paths = (store.path(f"{PINS}/{name}") for name in store.names(store.path(PINS)) if name.endswith(".json"))
    found = (read_document(store, path, Pin, "remove it, and pin the step again to keep it") for path in paths)
    return [pin for pin in found if pin is not None]


def pin_step(store: Store, directory: str, note: str = "") -> Pin:
    """Pin a step. If it is pinned already, the new note, if any, replaces the old one.

    Raises:
        UserError: a garbage collection is removing the step.
    """
    before = next((pin for pin in read_pins(store) if pin.directory == directory), None)
    pin = Pin(directory, note or (before.note if before else ""), now())
    store.replace(_path(store, directory), json.dumps(asdict(pin)).encode())
    # After writing the pin: gc writes its tombstone before it looks for pins, so one of the two sees the other.
    tombstone = read_tombstone(store, directory)
    if tombstone is not None and tombstone.commits:
        store.remove(_path(store, directory))
        raise UserError(
            f"{directory} is being removed by gc since {tombstone.time}; if it still exists afterwards, pin it again"
        )
    return pin


def unpin_step(store: Store, directory: str) -> bool:
    """False if the step was not pinned."""
    path = _path(store, directory)
    pinned = os.path.basename(path) in store.names(store.path(PINS))
    store.remove(path)
    return pinned


def _path(store: Store, directory: str) -> str:
    return store.path(f"{PINS}/{urllib.parse.quote(directory, safe='')}.json")
