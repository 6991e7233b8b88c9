"""Attempts of earlier launches that a step to run can be compared with, from their records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from marin_sft.execution.attempt_record import AttemptRecord, sound_record
from marin_sft.execution.catalog import in_parallel
from marin_sft.execution.graph import Node
from marin_sft.execution.identity import name_of_directory
from marin_sft.execution.prices import Machines, machines_of
from marin_sft.execution.step import StepConfig
from marin_sft.execution.store import Store
from marin_sft.execution.work import Work

_MOST = 96  # step directories whose records are read for one plan
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
    """Attempts of steps next to these in the store, first those of the same names. Damaged records are skipped."""
    nodes = list(nodes)
    names = {node.name for node in nodes}
    parents = sorted({node.directory.rpartition("/")[0] for node in nodes if not node.step.override_output_path})
    share = max(1, _MOST // max(1, len(parents)))
    listed = in_parallel(store, lambda parent: _steps_in(store, parent, names)[:share], parents)
    overrides = [node.directory for node in nodes if node.step.override_output_path][:_MOST]
    chosen = [*(directory for directories in listed for directory in directories), *overrides]
    of_each = in_parallel(store, lambda directory: list(_attempts(store, directory)), chosen)
    return [attempt for attempts in of_each for attempt in attempts]


def _steps_in(store: Store, parent: str, names: Collection[str]) -> list[str]:
    """The step directories there, first those of steps with these names."""
    folders = store.folders(store.path(parent) if parent else store.prefix)
    found = [directory for folder in folders if name_of_directory(directory := f"{parent}/{folder}".lstrip("/"))]
    return sorted(found, key=lambda directory: (name_of_directory(directory) not in names, directory))


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
