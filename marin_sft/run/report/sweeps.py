"""A sweep: its points with the figure that decides, best first, also while it runs and where points have failed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from marin_sft.evaluation.directions import order
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.store import Store
from marin_sft.run.report.documents import read_json
from marin_sft.run.report.steps import Step
from marin_sft.sweeps.figures import CHOICE
from marin_sft.sweeps.points import shown_value
from marin_sft.training.metrics.metrics_log import NAME as METRICS

_LINE = 64 << 10  # bytes of the end of a log in which its last line is
_GONE = ("failed", "blocked", "cancelled", "interrupted")
_KIND = "sweep_table"
_CURVES, _ANSWERS = 24, 3  # points of a sweep whose curves, and whose answers, a page shows


def is_sweep(step: Step) -> bool:
    """Whether it is a sweep's table, made or not. The tables between the rungs of a sweep are not shown."""
    return not _told(step).get("promoted", 0) and "runs" in _told(step)


def _told(step: Step) -> Mapping[str, Any]:
    config = step.payload.get("config") if step.payload and step.kind == _KIND else None
    if step.planned.told or not isinstance(config, dict):
        return step.planned.told
    runs = [{**run, "trained": None, "evaluations": {}} for run in config["runs"]]
    return {**config, "runs": runs}


def sweep_json(store: Store, step: Step, steps: Sequence[Step], words: Mapping[str, str]) -> JsonObject:
    """words: what became of each step, by name, see `outcome`."""
    told = _told(step)
    sweep = read_json(store, f"{step.output}/sweep.json") if step.output and "sweep.json" in step.files else None
    by_name = {one.name: one for one in steps}
    rows = [_row(store, run, told["metric"], by_name, words) for run in told["runs"]]
    points = _points(rows)
    if sweep is not None:
        points = [_of_table(point, points) for point in sweep["points"]]
    names = sweep["settings"] if sweep else dict.fromkeys(name for point in points for name in point["settings"])
    points.sort(key=lambda p: (p["value"] is None, -p["rung"], order(told["direction"], p["value"] or 0.0)))
    return {
        "step": step.directory,
        "name": step.name,
        "metric": told["metric"],
        "direction": told["direction"],
        "settings": list(names),
        "made": sweep is not None,
        "rungs": 1 + max((run["rung"] for run in told["runs"]), default=0),
        "points": points,
        "left_out": sum(len(point["steps"]) for point in points[_CURVES:]),
    }


def left_out(sweeps: Iterable[JsonObject]) -> set[str]:
    """The trainings whose curves, and evaluations whose answers, would be too many: those of all but the best."""
    found: set[str] = set()
    for sweep in sweeps:
        found.update(step for point in sweep["points"][_CURVES:] for step in point["steps"])
        found.update(step for point in sweep["points"][_ANSWERS:] for step in point["evaluated"])
    return found


def _row(
    store: Store, run: Mapping[str, Any], metric: str, steps: Mapping[str, Step], words: Mapping[str, str]
) -> JsonObject:
    """One training: its point, what became of it and its evaluations, and its figure if all have ended well."""
    trained = steps.get(run["trained"])
    used = [steps[name] for name in run["evaluations"].values() if name in steps]
    states = [words[one.name] for one in (trained, *used) if one is not None]
    state = next((word for word in states if word in _GONE), None)
    if state is None:
        left = [word for word in states if word not in ("ran", "reused")]
        state = left[0] if left else "ran"
    point, settings = run["point"], run["settings"]
    if trained is not None and not settings and CHOICE in trained.files:
        choice = read_json(store, f"{trained.output}/{CHOICE}") or {}
        point, settings = str(choice.get("point")), choice.get("settings") or {}
    value = _figure(store, run, metric, trained, steps) if state == "ran" else None
    return {
        "point": point,
        "settings": {name: shown_value(each) for name, each in settings.items()},
        "rung": run["rung"],
        "value": value,
        "state": state,
        "step": trained.directory if trained is not None else None,
        "evaluated": [one.directory for one in used],
    }


def _figure(
    store: Store, run: Mapping[str, Any], metric: str, trained: Step | None, steps: Mapping[str, Step]
) -> float | None:
    label, _, figure = metric.partition("/")
    if label in run["evaluations"]:
        measured = steps.get(run["evaluations"][label])
        found = read_json(store, f"{measured.output}/metrics.json") if measured and measured.output else None
    else:
        figure = metric
        found = _last_line(store, f"{trained.output}/{METRICS}") if trained and METRICS in trained.files else None
    value = (found or {}).get(figure)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _last_line(store: Store, path: str) -> JsonObject | None:
    size = store.size(path)
    lines = store.read_from(path, max(0, size - _LINE), _LINE).splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _points(rows: Iterable[JsonObject]) -> list[JsonObject]:
    """One per point, of the last rung that it has begun. Trainings whose point no step has chosen yet are left out."""
    found: dict[str, list[JsonObject]] = {}
    for row in rows:
        if row["settings"]:
            found.setdefault(row["point"], []).append(row)
    return [_point(point, of_point) for point, of_point in found.items()]


def _point(point: str, rows: Sequence[JsonObject]) -> JsonObject:
    last = max(row["rung"] for row in rows)
    those = [row for row in rows if row["rung"] == last]
    values = [row["value"] for row in those if row["value"] is not None]
    whole = len(values) == len(those)
    unlike = [row["state"] for row in those if row["state"] != "ran"]
    return {
        "point": point,
        "settings": those[0]["settings"],
        "rung": last,
        "value": statistics.fmean(values) if whole else None,
        "spread": statistics.stdev(values) if whole and len(values) > 1 else None,
        "state": unlike[0] if unlike else "ran",
        "steps": [row["step"] for row in those if row["step"]],
        "evaluated": [directory for row in those for directory in row["evaluated"]],
    }


def _of_table(point: JsonObject, known: Sequence[JsonObject]) -> JsonObject:
    """A point of the table, with the steps and states that the launch knows."""
    same: JsonObject = next((one for one in known if one["point"] == point["point"]), {"steps": [], "evaluated": []})
    return {
        "point": str(point["point"]),
        "settings": {name: shown_value(value) for name, value in point["settings"].items()},
        "rung": point["rung"],
        "value": point["value"],
        "spread": point["spread"],
        "state": "failed" if point["failed"] else "ran",
        "steps": same["steps"],
        "evaluated": same["evaluated"],
    }
