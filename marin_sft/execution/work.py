"""How much work an attempt did: what it read and made, and how far it reported to be. Estimates scale with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from marin_sft.execution.catalog import in_parallel
from marin_sft.execution.commits import committed_files
from marin_sft.execution.store import FileInfo, Store
from marin_sft.progress import Progress

Amounts = dict[str, float]
"""The size of an output: `bytes`, and what its metrics.json counts of `COUNTED`."""

COUNTED = ("tokens", "rows", "documents")
_LARGEST_METRICS = 1 << 16  # bytes; the file is the step's own, or anybody's, of a downloaded repository


@dataclass(frozen=True)
class Work:
    """The work of one attempt.

    read: the amounts of its inputs, by the first ten digits of their steps' fingerprints.
    made: the amounts of its output; empty if there is none.
    begun, done, total, unit: the first and last progress that it reported. One that continued an earlier attempt begins
        after 0.
    """

    read: dict[str, Amounts] = field(default_factory=dict)
    made: Amounts = field(default_factory=dict)
    begun: float | None = None
    done: float | None = None
    total: float | None = None
    unit: str | None = None


def work_of(
    store: Store,
    output: str,
    files: list[FileInfo] | None,
    sources: Mapping[str, str],
    first: Progress | None,
    newest: Progress | None,
) -> Work:
    """files: of the output; None if the attempt failed. sources: the outputs that it used, by fingerprint."""
    found = in_parallel(store, lambda path: amounts_of(store, path, committed_files(store, path)), sources.values())
    return Work(
        read={fingerprint[:10]: amounts for fingerprint, amounts in zip(sources, found, strict=True)},
        made={} if files is None else amounts_of(store, output, files),
        begun=_number(first and first.done),
        done=_number(newest and newest.done),
        total=_number(newest and newest.total),
        unit=str(newest.unit) if newest else None,
    )


def _number(value: object) -> float | None:
    """A step may report what is no number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def amounts_of(store: Store, output: str, files: list[FileInfo]) -> Amounts:
    """The amounts of an output with these files."""
    found: Amounts = {"bytes": sum(file.size for file in files)}
    metrics = next((file for file in files if file.path == "metrics.json"), None)
    if metrics is None or metrics.size > _LARGEST_METRICS:
        return found
    try:
        counts = json.loads(store.read(f"{output}/metrics.json") or b"{}")
    except (OSError, ValueError, RecursionError):
        return found
    for name in COUNTED:
        count = counts.get(name) if isinstance(counts, dict) else None
        if isinstance(count, int | float) and not isinstance(count, bool) and math.isfinite(count) and count >= 0:
            found[name] = count
    return found
