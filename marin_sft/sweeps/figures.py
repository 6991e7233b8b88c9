"""The results of a sweep's trainings: what each measured, and which is best. Light: no JAX."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marin_sft.data.files import open_file, read_json
from marin_sft.errors import DataError
from marin_sft.evaluation.directions import order
from marin_sft.nearest import nearest_text
from marin_sft.sweeps.step_configs import SweptRunSpec

CHOSEN = "chosen.json"
"""In the output of a step that chooses: a list of {"point", "settings", "from": the training to go on from or null}."""
CHOICE = "choice.json"
"""In the output of a training whose settings a step has chosen: its point and its settings."""

Figures = dict[str, float]


@dataclass(frozen=True)
class Result:
    """What became of one training. figures: None if it, or one of its evaluations, failed."""

    run: str
    point: str
    settings: Mapping[str, Any]
    seed: int | None
    rung: int
    figures: Figures | None


@dataclass(frozen=True)
class Row:
    """A point with the results of the last rung that it reached.

    values: the metric of each of its trainings that finished. failed: the trainings that did not.
    figures: means over its trainings.
    """

    point: str
    settings: Mapping[str, Any]
    rung: int
    values: Mapping[str, float]
    failed: Sequence[str]
    figures: Figures = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """The mean of the metric. None: a training has failed, or its metric is not finite."""
        found = list(self.values.values())
        return None if self.failed or not all(map(math.isfinite, found)) else statistics.fmean(found)

    @property
    def spread(self) -> float | None:
        """The standard deviation of the metric over several trainings."""
        found = list(self.values.values())
        return statistics.stdev(found) if len(found) > 1 and self.value is not None else None


def run_name(run: SweptRunSpec) -> str:
    return run.point if run.seed is None else f"{run.point}_seed={run.seed}"


def results_of(runs: Sequence[SweptRunSpec]) -> list[Result]:
    """Without those that failed before a step had chosen their point.

    Raises:
        DataError: an output without figures.
    """
    return [result for result in map(_result, runs) if result.settings]


def _result(run: SweptRunSpec) -> Result:
    point, settings = run.point, run.settings
    outputs = [run.trained, *run.evaluations.values()]
    if run.trained is not None and not settings:
        chosen = read_json(f"{run.trained}/{CHOICE}")
        point, settings = chosen["point"], chosen["settings"]
    figures = None
    if None not in outputs:
        figures = _of_training(f"{run.trained}")
        for name, output in run.evaluations.items():
            figures |= {f"{name}/{metric}": value for metric, value in _numbers(f"{output}/metrics.json").items()}
    return Result(run_name(run), point, settings, run.seed, run.rung, figures)


def _of_training(output: str) -> Figures:
    """Those of the last line of its log, which has more than metrics.json."""
    try:
        with open_file(f"{output}/metrics.jsonl", "rb") as file:
            lines: list[bytes] = file.read().splitlines()
        last = json.loads(lines[-1])
    except (FileNotFoundError, IndexError, ValueError) as error:
        raise DataError(f"{output}/metrics.jsonl: {error}; expected the log of a training") from error
    return {**_only_numbers(last), **_numbers(f"{output}/metrics.json")}


def _numbers(path: str) -> Figures:
    try:
        found = read_json(path)
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{path}: {error}; expected a JSON object of numbers, like {{'accuracy': 0.5}}") from error
    return _only_numbers(found)


def _only_numbers(found: object) -> Figures:
    return {k: v for k, v in found.items() if type(v) in (int, float)} if isinstance(found, dict) else {}


def rows_of(results: Sequence[Result], metric: str) -> list[Row]:
    """One row per point, in the order of the results.

    Raises:
        DataError: a training that finished has no such figure.
    """
    last: dict[str, int] = {}
    for result in results:
        if result.figures is not None or result.point not in last:
            last[result.point] = max(result.rung, last.get(result.point, 0))
    points: dict[str, list[Result]] = {}
    for result in results:
        if result.rung == last[result.point]:
            points.setdefault(result.point, []).append(result)
    return [_row(point, of_point, metric) for point, of_point in points.items()]


def _row(point: str, results: Sequence[Result], metric: str) -> Row:
    there = {result.run: result.figures for result in results if result.figures is not None}
    for run, figures in there.items():
        if metric not in figures:
            raise DataError(
                f"metric = {metric!r}: '{run}' has no such figure{nearest_text(metric, figures)}. The evaluation loss "
                "needs held-out data and steps_per_eval. A training that was made without them is made again by "
                "--force_run with its name"
            )
    values = {run: figures[metric] for run, figures in there.items()}
    failed = [result.run for result in results if result.figures is None]
    names = dict.fromkeys(name for figures in there.values() for name in figures)
    in_all = [name for name in names if all(name in figures for figures in there.values())]
    means = {name: statistics.fmean(figures[name] for figures in there.values()) for name in in_all}
    return Row(point, results[0].settings, results[0].rung, values, failed, means)


def best_of(results: Sequence[Result], metric: str, direction: str) -> list[Row]:
    """The points that have a value, best first.

    Raises:
        DataError: there are none, or a training that finished has no such figure.
    """
    rows = rows_of(results, metric)
    there = [row for row in ranked(rows, direction) if row.value is not None]
    if not there:
        failed = sum(bool(row.failed) for row in rows)
        raise DataError(f"no point of {len(rows)} has a finite {metric}; {failed} failed: look at their logs")
    return there


def ranked(rows: Sequence[Row], direction: str) -> list[Row]:
    """Best first; those that went on further before others, and those without a value last. Of equal ones, the first
    in the order of the sweep."""

    def key(row: Row) -> tuple[bool, int, float]:
        return row.value is None, -row.rung, 0.0 if row.value is None else order(direction, row.value)

    return sorted(rows, key=key)
