"""The step directories under a prefix, and which of them a name refers to. Only reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from marin_sft.errors import DamagedFile, NoSuchStep
from marin_sft.execution.commits import Commit
from marin_sft.execution.documents import as_document
from marin_sft.execution.identity import name_of_directory
from marin_sft.execution.object_store import CONNECTIONS
from marin_sft.execution.pins import PINS
from marin_sft.execution.record import RUNS
from marin_sft.execution.step_state import StepState, has_step, read_state
from marin_sft.execution.store import Store
from marin_sft.nearest import did_you_mean, nearest_text

T = TypeVar("T")
R = TypeVar("R")

_LISTED = 12  # steps that an error names
_OF_A_STEP = {"claims", "commits"}
_OF_A_STORE = {RUNS, PINS}


@dataclass(frozen=True)
class Catalog:
    """What is under a prefix, as sorted relative paths.

    steps: directories that look like steps. Their state tells whether they hold claims or commits of ours.
    stores: nested stores, which are not searched.
    """

    steps: tuple[str, ...]
    stores: tuple[str, ...]


def step_directories(store: Store) -> list[str]:
    return list(read_catalog(store).steps)


def read_catalog(store: Store) -> Catalog:
    steps: list[str] = []
    stores: list[str] = []
    level = [""]
    while level:
        listed = in_parallel(store, lambda directory: store.folders(store.path(directory)), level)
        following = []
        for directory, folders in zip(level, listed, strict=True):
            if directory and not _OF_A_STORE.isdisjoint(folders):
                stores.append(directory)
                continue
            if directory and _is_step(store, directory, folders):
                steps.append(directory)
                continue
            names = (name for name in folders if not name.startswith(("_", ".")))
            following += [f"{directory}/{name}" if directory else name for name in names]
        level = following
    return Catalog(tuple(sorted(steps)), tuple(sorted(stores)))


def _is_step(store: Store, directory: str, folders: list[str]) -> bool:
    if _OF_A_STEP.isdisjoint(folders):
        return False
    # Any folder may be called `commits`. A name with a fingerprint spares us a second look.
    return name_of_directory(directory) is not None or has_step(store, directory)


def step_name(directory: str) -> str:
    """The step's name, or the whole directory if `override_output_path` chose it."""
    return name_of_directory(directory) or directory


def location(store: Store, directory: str) -> str:
    """One spelling for each place. An override may be an absolute path, and on disk it may go through a link."""
    path = store.path(directory)
    return path.rstrip("/") if "://" in path else os.path.realpath(path)


def read_states(store: Store, directories: Iterable[str]) -> dict[str, StepState]:
    directories = list(directories)
    return dict(zip(directories, in_parallel(store, lambda d: read_state(store, d), directories), strict=True))


def comparable_commits(store: Store, directories: Iterable[str]) -> dict[str, Commit]:
    """The newest commits of steps, to compare another one with. Damaged ones are skipped."""

    def read(directory: str) -> Commit | None:
        try:
            commit = read_state(store, directory).commit
            return commit if commit and as_document(_Comparable, commit.payload) else None
        except (DamagedFile, ValueError):
            return None

    directories = list(directories)
    found = zip(directories, in_parallel(store, read, directories), strict=True)
    return {directory: commit for directory, commit in found if commit is not None}


@dataclass(frozen=True)
class _Comparable:
    kind: str
    version: int
    config: object


def in_parallel(store: Store, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`[function(item) for item in items]`, in parallel where each call takes a network round trip."""
    if store.on_disk:
        return [function(item) for item in items]
    items = list(items)
    # The first call runs alone: parallel first calls would each set up a session of the client.
    first = [function(item) for item in items[:1]]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return first + list(pool.map(function, items[1:]))


@dataclass(frozen=True)
class Found:
    """The step that a text refers to. `others`: the directories that it could also refer to."""

    directory: str
    state: StepState
    others: tuple[str, ...] = ()


def find_step(store: Store, text: str) -> Found:
    """Find a step by its exact name, its `name-fingerprint` or a prefix of that, its directory, or a path inside it.

    If several steps have the name, the one with the newest commit; without commits, the one claimed last.

    Raises:
        NoSuchStep: there is none under the prefix; with the nearest name.
    """
    catalog = read_catalog(store)
    known = catalog.steps
    wanted = text.removeprefix(f"{store.prefix}/").rstrip("/")
    candidates = (
        [directory for directory in known if directory == wanted]
        or [directory for directory in known if step_name(directory) == wanted]
        or [directory for directory in known if _begins(directory, wanted)]
        or [directory for directory in known if _inside(store, text, directory)]
    )
    states = {directory: state for directory, state in read_states(store, candidates).items() if state.begun}
    if not states:
        raise NoSuchStep(_not_found(store, text, wanted, catalog))
    newest = max(states, key=lambda directory: _newness(states[directory]))
    return Found(newest, states[newest], tuple(d for d in states if d != newest))


def _not_found(store: Store, text: str, wanted: str, catalog: Catalog) -> str:
    for other in catalog.stores:
        if f"{wanted}/".startswith(f"{other}/"):
            return f"no step {text!r}: {other} is a store of its own; use --prefix {store.path(other)}"
    if not catalog.steps:
        return f"no step {text!r}: there are no steps under {store.prefix}; choose another store with --prefix"
    names = sorted({step_name(directory) for directory in catalog.steps})
    near = did_you_mean(text, names) if len(names) > _LISTED else nearest_text(text, names)
    return f"no step {text!r} under {store.prefix}{near or f'; marin-sft status lists the {len(names)} that there are'}"


def _begins(directory: str, wanted: str) -> bool:
    """`raw/a-01` matches `raw/a-0123456789`, but `raw/a` does not match `raw/ab-0123456789`."""
    name = name_of_directory(directory)
    return name is not None and wanted.startswith(f"{name}-") and directory.startswith(wanted)


def _inside(store: Store, text: str, directory: str) -> bool:
    own = location(store, directory)
    place = text.rstrip("/") if "://" in text else os.path.realpath(text)
    return place == own or place.startswith(f"{own}/")


def _newness(state: StepState) -> tuple[str, str]:
    return (state.commit.time if state.commit else "", state.claim.time if state.claim else "")
