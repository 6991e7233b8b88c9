"""Everything that a page shows, as JSON. Made from the store alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from marin_sft.errors import MarinSftError
from marin_sft.execution.catalog import in_parallel, location
from marin_sft.execution.clock import now, seconds_since_epoch
from marin_sft.execution.differences import difference_text
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.prices import Prices
from marin_sft.execution.store import Store
from marin_sft.run import explanation
from marin_sft.run.cost import StepCost, spent_on, step_costs
from marin_sft.run.report import datasets, evaluations, exports, lints, sweeps
from marin_sft.run.report.curves import curves
from marin_sft.run.report.documents import read_json
from marin_sft.run.report.steps import Step, read_step, step_json
from marin_sft.run.report.subject import Subject
from marin_sft.run.status import outcome
from marin_sft.training.metrics.metrics_log import NAME as METRICS

T = TypeVar("T")
R = TypeVar("R")
_POINTS = 8000  # of each metric, over all trainings
_FEWEST_POINTS, _MOST_POINTS = 120, 800
_LOG_BYTES = 2 << 20  # of the ends of all logs
_LONGEST_LOG = 24 << 10
_GOING = ("running", "not ended")


class Sections:
    """Collects parts of a page. A part that cannot be read is told, and does not keep the others from the page."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.problems: list[str] = []

    def part(self, where: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (MarinSftError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            self.problems.append(f"{where}: {error if str(error) else type(error).__name__}")
            return None

    def parts(self, items: Iterable[T], name: Callable[[T], str], read: Callable[[T], R | None]) -> list[R]:
        """`read` of each, in parallel where it takes round trips; without those that cannot be read."""
        found = in_parallel(self._store, lambda item: self.part(name(item), lambda: read(item)), items)
        return [item for item in found if item is not None]

    def of_steps(self, steps: Iterable[Step], read: Callable[[Step], R | None]) -> list[R]:
        return self.parts(steps, lambda step: step.name, read)


def contents(store: Store, subject: Subject, prices: Prices | None = None) -> JsonObject:
    """The content of a page about `subject`; with `prices`, also what was spent on it."""
    sections = Sections(store)
    steps = sections.parts(subject.steps, lambda planned: planned.name, lambda planned: read_step(store, planned))
    begun, going = _window(subject)
    words = {step.name: _outcome(step, begun, going) for step in steps}
    found_sweeps = sections.of_steps(
        filter(sweeps.is_sweep, steps), lambda step: sweeps.sweep_json(store, step, steps, words)
    )
    left_out = sweeps.left_out(found_sweeps)
    trainings = [step for step in steps if METRICS in step.files and step.directory not in left_out]
    log_bytes = min(_LONGEST_LOG, _LOG_BYTES // max(1, len(steps)))
    points = min(_MOST_POINTS, max(_FEWEST_POINTS, _POINTS // max(1, len(trainings))))
    found_curves = sections.of_steps(trainings, lambda step: training_json(store, step, points))
    epochs = {item["step"]: item["last"].get("epoch") for item in found_curves}
    scores = _evaluations(store, sections, [step for step in steps if step.directory not in left_out])
    label([*found_curves, *(step for group in scores for step in group["steps"])])
    spent = _costs(store, subject, steps, prices)
    found = {
        "title": subject.title,
        "about": subject.about,
        "made": now(),
        "prefix": store.prefix,
        "launches": list(subject.launches),
        "cost": _total(spent, prices),
        "steps": sections.of_steps(
            steps,
            lambda step: {
                **step_json(store, step, _outcome(step, begun, going), log_bytes),
                "cost": _cost_text(spent.get(step.directory), prices),
            },
        ),
        "trainings": found_curves,
        "differences": _differences(store, sections, trainings, lambda step: step.kind),
        "changes": _differences(store, sections, steps, lambda step: step.name),
        "datasets": sections.of_steps(
            (step for step in steps if step.kind == "tokenize" and "stats.json" in step.files),
            lambda step: datasets.dataset_json(store, step),
        ),
        "mixtures": sections.of_steps(
            (step for step in steps if "mixture.json" in step.files),
            lambda step: datasets.mixture_json(store, step, _users(store, step, trainings, epochs)),
        ),
        "sweeps": found_sweeps,
        "lints": sections.of_steps(filter(lints.is_lint, steps), lambda step: lints.lint_json(store, step)),
        "evaluations": scores,
        "export_tables": sections.of_steps(
            (step for step in steps if evaluations.TABLE in step.files),
            lambda step: evaluations.table_json(store, step, points),
        ),
        "exports": sections.of_steps(filter(exports.is_export, steps), lambda step: exports.export_json(store, step)),
        "problems": sections.problems,
    }
    return {key: _finite(value) for key, value in found.items()}


def _outcome(step: Step, begun: float | None, going: bool) -> str:
    result = step.planned.decided.get("result")
    return outcome(step.state, None if result is None else str(result), begun, going)


def _finite(value: object) -> object:
    """The value with numbers that JSON lacks as words: a browser's JSON has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def label(items: Iterable[JsonObject]) -> None:
    """Give items that stand for steps a short name, with the fingerprint where several would have the same."""
    items = list(items)
    places: dict[str, set[str]] = {}
    for item in items:
        places.setdefault(item["name"].rpartition("/")[2], set()).add(item["step"])
    for item in items:
        short = item["name"].rpartition("/")[2]
        alike = [place for place in places[short] if place.startswith(f"{item['name']}-")]
        item["label"] = f"{short} {item['step'][-10:-4]}" if len(alike) > 1 else short


def _window(subject: Subject) -> tuple[float | None, bool]:
    """When the launch began, and whether it may still be going on."""
    if len(subject.launches) != 1:
        return None, any(str(launch["status"]).startswith(_GOING) for launch in subject.launches)
    launch = subject.launches[0]
    begun = f"{launch['run'][:13]}:{launch['run'][13:15]}:{launch['run'][15:22]}"
    return seconds_since_epoch(begun), str(launch["status"]).startswith(_GOING)


def training_json(store: Store, step: Step, points: int) -> JsonObject | None:
    """The curves of a training, and the figures of the whole run if it has ended."""
    assert step.output is not None
    found = curves(store, f"{step.output}/{METRICS}", points)
    if found is None:
        return None
    summary = read_json(store, f"{step.output}/metrics.json") if "metrics.json" in step.files else None
    # The kind is known once an attempt has ended. Until then its metrics tell with which others it shares charts.
    of_pairs = any(name.startswith("rewards/") for name in found["metrics"])
    kind = step.kind or ("dpo" if of_pairs else "sft")
    return {"step": step.directory, "name": step.name, "kind": kind, "summary": summary or {}, **found}


def _costs(store: Store, subject: Subject, steps: list[Step], prices: Prices | None) -> dict[str, StepCost]:
    """What the launches of the subject spent on each step, with failed and lost attempts. Nothing without prices."""
    if prices is None:
        return {}
    runs = {launch["run"] for launch in subject.launches} if subject.about in ("launch", "several") else None
    of_each = in_parallel(store, lambda step: spent_on(store, step.directory, step.state), steps)
    chosen = [one for spent in of_each for one in spent if runs is None or one.run in runs]
    return {step.directory: step for step in step_costs(chosen, prices)}


def _cost_text(spent: StepCost | None, prices: Prices | None) -> str | None:
    if spent is None or prices is None:
        return None
    return "?" if spent.cost is None else prices.text(spent.cost)


def _total(spent: Mapping[str, StepCost], prices: Prices | None) -> JsonObject | None:
    """The sum, and for how many steps it is unknown, and why."""
    if prices is None:
        return None
    unknown = [step for step in spent.values() if step.cost is None]
    total = prices.text(sum(step.cost or 0.0 for step in spent.values()))
    return {"total": total, "unknown": len(unknown), "why": sorted({str(step.why) for step in unknown})}


def _users(
    store: Store, mixture: Step, trainings: Iterable[Step], epochs: dict[str, float | None]
) -> list[tuple[Step, float | None]]:
    place = location(store, mixture.directory)
    users = [step for step in trainings if place in {location(store, used) for used in step.inputs}]
    return [(step, epochs.get(step.directory)) for step in users]


def _differences(
    store: Store, sections: Sections, steps: Iterable[Step], key: Callable[[Step], object]
) -> list[JsonObject]:
    """In what steps of one `key` differ from the first of them."""
    alike: dict[object, list[Step]] = {}
    for step in steps:
        if step.payload is not None:
            alike.setdefault(key(step), []).append(step)
    found = []
    for first, *others in alike.values():
        found += sections.of_steps(others, functools.partial(_difference, store, first))
    return found


def _difference(store: Store, first: Step, other: Step) -> JsonObject:
    assert first.payload is not None and other.payload is not None
    fields = explanation.differences(store, first.payload, other.payload)
    texts = [difference_text((str(field), old, new)) for field, old, new in fields]
    return {"name": other.name, "of": first.directory, "step": other.directory, "fields": texts}


def _evaluations(store: Store, sections: Sections, steps: list[Step]) -> list[JsonObject]:
    grouped = evaluations.groups(step for step in steps if evaluations.is_evaluation(step))
    return sections.parts(grouped, lambda group: group[0].name, lambda group: evaluations.group_json(store, group))
