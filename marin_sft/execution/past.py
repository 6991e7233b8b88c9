"""Attempts of earlier launches that a step to run can be compared with, from their records."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marin_sft.execution.attempt_record import AttemptRecord, sound_record
from marin_sft.execution.catalog import in_parallel
from marin_sft.execution.graph import Node
from marin_sft.execution.identity import name_of_directory
from marin_sft.execution.pins import PINS
from marin_sft.execution.prices import Machines, machines_of
from marin_sft.execution.record import RUNS, asked
from marin_sft.execution.step import StepConfig
from marin_sft.execution.store import Store
from marin_sft.execution.work import Work

_MOST = 96  # step directories whose records are read for one plan
_MOST_ELSEWHERE = 48  # more of them, if those tell nothing of a step
_MOST_FOLDERS = 64  # that are listed to find these
_NOT_A_FOLDER = {"claims", "commits", RUNS, PINS}  # in a step at a place of its own, or in a nested store
_MENTIONED = 0.02  # of a step's work
_ATTEMPTS = 2  # of each directory, the newest


@dataclass(frozen=True, eq=False)
class PastAttempt:
    """A committed attempt that began its step afresh. config: that of the step's identity."""

    name: str
    kind: str
    config: Any
    machines: Machines
    seconds: float
    work: Work


def past_attempts(store: Store, nodes: Iterable[Node]) -> list[PastAttempt]:
    """Attempts of the kinds of these steps: of steps next to them in the store, first those of the same names, and for
    steps that none of these attempts tells of, of steps elsewhere. Damaged records are skipped."""
    nodes = list(nodes)
    near = _near(store, nodes)
    found = _attempts_of(store, near)
    known = {(attempt.kind, attempt.machines) for attempt in found}
    untold = [node for node in nodes if (kind_of(node), machines_asked(node)) not in known]
    if untold:
        found += _attempts_of(store, _elsewhere(store, untold, leaving_out=set(near)))
    kinds = {kind_of(node) for node in nodes}
    return [attempt for attempt in found if attempt.kind in kinds]


def kind_of(node: Node) -> str:
    return str(node.payload["kind"])


def machines_asked(node: Node) -> Machines | None:
    """What a step will run on. None: it is not understood."""
    return machines_of(asked(node.step.resources))


def _near(store: Store, nodes: Sequence[Node]) -> list[str]:
    """Directories of the steps next to these in the store."""
    names = {node.name for node in nodes}
    parents = sorted({_folder(node.directory) for node in nodes if not node.step.override_output_path})
    share = max(1, _MOST // max(1, len(parents)))
    listed = in_parallel(store, lambda parent: _first(_steps_in(parent, _children(store, parent)), names), parents)
    overrides = [node.directory for node in nodes if node.step.override_output_path][:_MOST]
    return [*(directory for directories in listed for directory in directories[:share]), *overrides]


def _elsewhere(store: Store, nodes: Sequence[Node], leaving_out: Collection[str]) -> list[str]:
    """Directories of steps anywhere in the store: some of each folder, since a folder mostly holds steps of one kind,
    those first whose folders, and the last parts of whose names, are those of `nodes`."""
    folders = {_folder(node.name) for node in nodes}
    names = {node.name.rpartition("/")[2] for node in nodes}
    steps = {folder: [one for one in found if one not in leaving_out] for folder, found in _walk(store).items()}
    ranked = sorted(steps, key=lambda folder: (-max(_shared(folder, other) for other in folders), folder))
    in_turn = itertools.zip_longest(*(_first(steps[folder], names) for folder in ranked))
    return list(itertools.islice(filter(None, itertools.chain.from_iterable(in_turn)), _MOST_ELSEWHERE))


def _walk(store: Store) -> dict[str, list[str]]:
    """The step directories of each folder of the store. No step is listed, and only so many folders."""
    found: dict[str, list[str]] = {}
    level, room = [""], _MOST_FOLDERS
    while level:
        room -= len(level)
        listed = in_parallel(store, lambda folder: _children(store, folder), level)
        following = []
        for folder, children in zip(level, listed, strict=True):
            if folder and not _NOT_A_FOLDER.isdisjoint(children):
                continue
            found[folder] = _steps_in(folder, children)
            others = sorted(set(children) - {step.rpartition("/")[2] for step in found[folder]})
            following += [_joined(folder, name) for name in others if not name.startswith(("_", "."))]
        level = following[:room]
    return found


def _children(store: Store, folder: str) -> list[str]:
    return store.folders(store.path(folder) if folder else store.prefix)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _shared(folder: str, other: str) -> int:
    """The number of leading parts that two paths share."""
    pairs = zip(folder.split("/"), other.split("/"), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _steps_in(folder: str, children: Iterable[str]) -> list[str]:
    directories = (_joined(folder, child) for child in children)
    return [directory for directory in directories if name_of_directory(directory)]


def _first(directories: Iterable[str], names: Collection[str]) -> list[str]:
    """Sorted, first those of steps with these names, or with names that end in them."""

    def other(directory: str) -> bool:
        name = name_of_directory(directory) or ""
        return name not in names and name.rpartition("/")[2] not in names

    return sorted(directories, key=lambda directory: (other(directory), directory))


def _attempts_of(store: Store, directories: Iterable[str]) -> list[PastAttempt]:
    of_each = in_parallel(store, lambda directory: list(_attempts(store, directory)), directories)
    return [attempt for attempts in of_each for attempt in attempts]


def _attempts(store: Store, directory: str) -> Iterator[PastAttempt]:
    numbers = sorted((int(name) for name in store.folders(store.path(directory)) if name.isdecimal()), reverse=True)
    for number in numbers[:_ATTEMPTS]:
        try:
            record = sound_record(store, directory, number)
        except OSError:  # it only makes the estimate poorer
            continue
        found = record and _past(record)
        if found:
            yield found


def _past(record: AttemptRecord) -> PastAttempt | None:
    """None for one that failed, or continued an earlier one and so tells nothing of the whole."""
    machines = record.resources and machines_of(record.resources)
    kind, config = record.payload.get("kind"), record.payload.get("config")
    if not record.ended_well or _continued(record) or not machines or not isinstance(kind, str):
        return None
    return PastAttempt(record.name, kind, config, machines, record.seconds, record.work)


def _continued(record: AttemptRecord) -> bool:
    """Whether the attempt went on from an earlier one that had done a part worth mentioning."""
    earlier = isinstance(record.config, dict) and bool(record.config.get("earlier_attempts"))
    begun, total = record.work.begun or 0.0, record.work.total or 0.0
    return earlier and begun > _MENTIONED * total


def size_of(kind: type[StepConfig] | None, config: Any, read: Mapping[str, Mapping[str, float]]) -> float | None:
    """The size of a step, which its time grows with, from its inputs. None: an input's amounts are not known.

    read: the amounts of inputs, by the first ten digits of fingerprints.
    """
    fields: dict[str, list[Mapping[str, float]]] = {}
    for name, fingerprint in inputs_of(config):
        amounts = read.get(fingerprint[:10], {})
        if not any(amounts.values()):  # also of an input that had not ended when a part of it was read
            return None
        fields.setdefault(name, []).append(amounts)
    return (kind or StepConfig).size(config, fields)


def inputs_of(config: Any) -> Iterator[tuple[str, str]]:
    """(field, fingerprint) of each input in the config of a step's identity; the same output counts once a field."""
    for name, value in config.items() if isinstance(config, dict) else ():
        yield from dict.fromkeys((name, fingerprint) for fingerprint in _fingerprints(value))


def _fingerprints(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and isinstance(value.get("$input"), str):
        if not value.get("nonblocking"):
            yield value["$input"]
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _fingerprints(child)
