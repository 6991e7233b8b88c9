"""What lint steps found in rows, with samples."""

from __future__ import annotations

from collections import Counter

from marin_sft.data.lint.findings import FINDINGS, REPORT, SAMPLE_ROWS
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.store import Store
from marin_sft.run.report.documents import read_json, read_rows
from marin_sft.run.report.steps import Step

_BYTES = 4 << 20  # of the samples
_SHOWN = 300  # samples of a step


def is_lint(step: Step) -> bool:
    """Also of a failed attempt: more findings than allowed are the reason why it failed."""
    return REPORT in step.files


def lint_json(store: Store, step: Step) -> JsonObject:
    """The findings of a step by component, and samples of each, fewer where there are many findings."""
    report = read_json(store, f"{step.output}/{REPORT}") or {}
    samples, bad = read_rows(store, f"{step.output}/{SAMPLE_ROWS}", _BYTES) if SAMPLE_ROWS in step.files else ([], 0)
    return {
        "step": step.directory,
        "name": step.name,
        "rows": report["rows"],
        "about": FINDINGS,
        "fail_above": step.config.get("fail_above") or {},
        "components": report["components"],
        "across": report["across"],
        "test_sets": report["test_sets"],
        "samples": _evenly(samples),
        "unreadable": bad,
    }


def _evenly(samples: list[JsonObject]) -> list[JsonObject]:
    """As many samples of each finding in each component as fit into a page."""
    kinds = {(one["component"], one["finding"]) for one in samples}
    most = max(1, _SHOWN // max(1, len(kinds)))
    seen = Counter[tuple[str, str]]()
    shown = []
    for one in samples:
        kind = one["component"], one["finding"]
        seen[kind] += 1
        if seen[kind] <= most:
            shown.append(one)
    return shown
