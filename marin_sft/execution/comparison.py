"""A step to run, compared with earlier attempts: what their times, or the sizes of their outputs, make of its own.

The values are fitted as `fixed + per_unit * x`. The fixed part of a time is for starting and compiling. x is the size
that the step's config class says (`StepConfig.size`). Where it says none, x may be that of the inputs times a number in
the config, if enough values show it: a few grow with any number by chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeGuard

from marin_sft.execution.differences import leaf_differences
from marin_sft.execution.past import PastAttempt, size_of
from marin_sft.execution.step import StepConfig
from marin_sft.execution.work import Amounts

_NEAR = 1.1  # ratio of sizes that count as the same
_SPAN = 1.5  # ratio of the largest to the smallest size from which on they show what is fixed and what grows
_ADVANTAGE = 0.05  # by how much a number in the config must explain the values better than the size alone does
_TOLERANCE = 0.05  # the most that they may be off then
_EVIDENCE = 3  # different numbers that it takes
_MOST = 24  # attempts that are compared with
_CODES = (".$input", ".$code", ".$function")
_LEAST = 1e-3  # of a value, in seconds or bytes, so that relative distances exist


@dataclass(frozen=True)
class Comparison:
    """name, config: of the step, and of its identity. size: None if the size of an input is not known."""

    name: str
    config: Any
    size: float | None
    of_class: type[StepConfig] | None

    def seconds(self, attempts: Sequence[PastAttempt]) -> float | None:
        """None: there is nothing to go by."""
        near = self.nearest(attempts)
        return self._value(near, [attempt.seconds for attempt in near])

    def amounts(self, attempts: Sequence[PastAttempt]) -> Amounts:
        """Of the step's output; empty if there is nothing to go by."""
        near = [attempt for attempt in self.nearest(attempts) if attempt.work.made]
        names = set.intersection(*(set(attempt.work.made) for attempt in near)) if near else set()
        values = {name: self._value(near, [attempt.work.made[name] for attempt in near]) for name in sorted(names)}
        return {name: value for name, value in values.items() if value is not None}

    def nearest(self, attempts: Sequence[PastAttempt]) -> list[PastAttempt]:
        """Those whose configs differ least from the step's in what is no number: a flag, a class, a file; of these, the
        ones of the same name, if there are some."""
        differing = [(_other_differences(a.config, self.config), a.name != self.name) for a in attempts]
        least = min(differing, default=None)
        return [attempt for attempt, count in zip(attempts, differing, strict=True) if count == least][:_MOST]

    def _value(self, attempts: Sequence[PastAttempt], values: Sequence[float]) -> float | None:
        sized = [
            (attempt, size, value)
            for attempt, value in zip(attempts, values, strict=True)
            if (size := size_of(self.of_class, attempt.config, attempt.work.read))
        ]
        if values and not sized:  # as of evaluations that all began before their training had ended
            return median(values)
        values = [value for *_, value in sized]
        found = [_fitted(x, others, values) for x, others in self._scales([(of, size) for of, size, _ in sized])]
        if not found:
            return None
        first, *rest = found
        best = min(rest, key=lambda line: line.error, default=first)
        return (best if best.error < min(_TOLERANCE, first.error - _ADVANTAGE) else first).value

    def _scales(self, attempts: Sequence[tuple[PastAttempt, float]]) -> Iterator[tuple[float, list[float]]]:
        """x of the step and of the attempts, which are given with their sizes: the size, then, unless the config
        class says what the size is, the size times each number in which enough of the attempts differ."""
        if not self.size or not attempts:
            return
        sizes = [size for _, size in attempts]
        yield self.size, sizes
        if self.of_class and _says_size(self.of_class):
            return
        theirs = [dict(_numbers(attempt.config)) for attempt, _ in attempts]
        for field, number in _numbers(self.config):
            numbers = [of.get(field, 0.0) for of in theirs]
            spread = min(numbers) > 0 and max(numbers) >= _SPAN * min(numbers) and len(set(numbers)) >= _EVIDENCE
            if number > 0 and spread:
                yield self.size * number, [size * n for size, n in zip(sizes, numbers, strict=True)]


def _says_size(of_class: type[StepConfig]) -> bool:
    return of_class.size.__func__ is not StepConfig.size.__func__  # type: ignore[attr-defined]


def _other_differences(old: object, new: object) -> int:
    found = leaf_differences(old, new)
    return sum(not field.endswith(_CODES) and not (_is_number(a) and _is_number(b)) for field, a, b in found)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: object, field: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(child, f"{field}.{key}")
    elif _is_number(value):
        yield field, value


@dataclass(frozen=True)
class _Fit:
    """value: at the step. error: the mean relative distance of the attempts from the line."""

    value: float
    error: float


def _fitted(at: float, xs: Sequence[float], values: Sequence[float]) -> _Fit:
    """By a line a + b * x with a, b >= 0."""
    ys = [max(y, _LEAST) for y in values]
    a, b = _line(at, xs, ys)
    return _Fit(a + b * at, sum(abs(a + b * x - y) / y for x, y in zip(xs, ys, strict=True)) / len(ys))


def _line(at: float, xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """The line of the median slope (Theil and Sen): one time of a machine that was busy does not move it."""
    constant = (median(ys), 0.0)
    proportional = (0.0, median(y / x for x, y in zip(xs, ys, strict=True)))
    if max(xs) < _SPAN * min(xs):  # sizes that are too close tell nothing of what is fixed
        return constant if min(xs) / _NEAR <= at <= max(xs) * _NEAR else proportional
    pairs = itertools.combinations(zip(xs, ys, strict=True), 2)
    b = median((y - other_y) / (x - other_x) for (x, y), (other_x, other_y) in pairs if x != other_x)
    a = median(y - b * x for x, y in zip(xs, ys, strict=True))
    return constant if b < 0 else proportional if a < 0 else (a, b)
