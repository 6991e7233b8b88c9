"""The points of a sweep: their settings, and their names."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.execution.step import ExecutorStep, InputName
from marin_sft.inputs import last_part
from marin_sft.sweeps.searches import Between, RandomSearch

Space = Mapping[str, tuple[object, ...] | Between]

Settings = Mapping[str, Any]
Over = Mapping[str, Sequence[object] | Between] | Sequence[Settings]

SHORT = {
    "learning_rate": "lr",
    "train_batch_size": "batch",
    "num_train_epochs": "epochs",
    "num_train_steps": "steps",
    "weight_decay": "wd",
}
"""What settings are called in names of points."""
_LONGEST = 100  # characters of a name: it is one part of a path, with a fingerprint
_DIGEST = 6


def points_of(what: str, over: Over, search: RandomSearch | None) -> list[Settings]:
    """The settings of each point: all combinations, draws, or those that are listed.

    Raises:
        ConfigError: nothing to choose from, a value twice, or settings that do not agree with the search.
    """
    if not isinstance(over, Mapping):
        return _listed(what, over, search)
    space = space_of(what, over)
    if search is not None:
        return list(itertools.islice(_drawn(what, space, search), search.points))
    for name, values in space.items():
        if isinstance(values, Between):
            raise ConfigError(
                f"{what}: over[{name!r}] = {values}: a grid needs the values; expected a list of them, or "
                "search=RandomSearch(points=...), which draws from a range"
            )
    lists = [values for values in space.values() if not isinstance(values, Between)]
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*lists)]


def space_of(what: str, over: Mapping[str, Any]) -> Space:
    """`over` by name, checked."""
    if not over:
        raise ConfigError(
            f"{what}: over = {{}}; expected lists of values by setting, like {{'learning_rate': [1e-5, 1e-4]}}"
        )
    for name, values in over.items():
        if isinstance(values, Between):
            continue
        if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
            raise ConfigError(f"{what}: over[{name!r}] = {values!r}; expected a list of values")
        if not values:
            raise ConfigError(f"{what}: over[{name!r}] = []; expected at least one value")
        _refuse_twice(f"{what}: over[{name!r}]", [repr(value) for value in values])
    return {name: values if isinstance(values, Between) else tuple(values) for name, values in over.items()}


def _refuse_twice(where: str, texts: Sequence[str]) -> None:
    twice = [text for text, count in Counter(texts).items() if count > 1]
    if twice:
        raise ConfigError(f"{where}: {twice[0]} is there {Counter(texts)[twice[0]]} times; expected it once")


def _listed(what: str, over: Any, search: RandomSearch | None) -> list[Settings]:
    if isinstance(over, str) or not isinstance(over, Sequence) or not all(isinstance(one, Mapping) for one in over):
        raise ConfigError(
            f"{what}: over = {over!r}; expected lists of values by setting, like {{'learning_rate': [1e-5, 1e-4]}}, or "
            "a list of points, like [{'learning_rate': 1e-5}, {'learning_rate': 1e-4}]"
        )
    if not over or not all(over):
        raise ConfigError(f"{what}: over = {list(over)!r}; expected at least one point, each with its settings")
    if search is not None:
        raise ConfigError(
            f"{what}: over lists the points, and search = {search} would choose them; expected one of both"
        )
    first = set(over[0])
    for index, point in enumerate(over):
        if other := first.symmetric_difference(point):
            raise ConfigError(
                f"{what}: over[{index}] and over[0] do not set the same: {sorted(other)}; expected the same settings "
                "in all points"
            )
    points: list[Settings] = [{name: point[name] for name in over[0]} for point in over]
    _refuse_twice(f"{what}: over", [repr(point) for point in points])
    return points


def _drawn(what: str, space: Space, search: RandomSearch) -> Iterator[Settings]:
    """Different points. Only `random()` is used: its numbers are the same in all versions of Python."""
    sizes = [None if isinstance(values, Between) else len(values) for values in space.values()]
    there = math.prod(size for size in sizes if size is not None)
    if None not in sizes and there < search.points:
        raise ConfigError(
            f"{what}: search = {search}, but the lists have only {there} combinations; expected at most that, or no "
            "search, to try them all"
        )
    dice, seen = random.Random(f"sweep {search.seed}"), set[str]()
    misses = 0
    while misses < 1000 * search.points:
        point = {name: _draw(values, dice.random()) for name, values in space.items()}
        if repr(point) in seen:
            misses += 1
            continue
        seen.add(repr(point))
        yield point
    raise ConfigError(
        f"{what}: search = {search}: only {len(seen)} different points were found; expected wider ranges, or fewer "
        "points"
    )


def _draw(values: Sequence[object] | Between, share: float) -> object:
    return values.at(share) if isinstance(values, Between) else values[int(share * len(values))]


def names_of(points: Sequence[Settings]) -> list[str]:
    """Short, readable and different names like `lr=1e-5_beta=0.1`. The name of a point does not depend on the others,
    so that a sweep that grows keeps its trainings; but two of one name get a digest of their settings."""
    names = [_readable(point) for point in points]
    counts = Counter(names)
    return [
        name if counts[name] == 1 and len(name) <= _LONGEST else f"{name[: _LONGEST - _DIGEST - 1]}-{_digest(point)}"
        for name, point in zip(names, points, strict=True)
    ]


def _readable(point: Settings) -> str:
    return "_".join(f"{SHORT.get(name, name)}={_text(value)}" for name, value in point.items())


def _digest(point: Settings) -> str:
    shown = repr({name: shown_value(value) for name, value in point.items()})
    return hashlib.sha256(shown.encode()).hexdigest()[:_DIGEST]


def _text(value: object) -> str:
    """Only what may be part of a step's name, and needs no quotes in a shell or a path on gs:// or s3://."""
    if isinstance(value, float):
        return re.sub(r"e([+-])0*(\d)", r"e\1\2", repr(value)).replace("e+", "e")
    if isinstance(value, Mapping):
        return "-".join(f"{key}{_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "-".join(map(_text, value)) or "none"
    plain = value if isinstance(value, str) else str(shown_value(value))
    return re.sub(r"[^A-Za-z0-9.-]+", "-", plain.lower() if isinstance(value, bool) or value is None else plain).strip(
        "-"
    )


def shown_value(value: object) -> object:
    """A setting as the table and the report show it: plain values as they are, others as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, ExecutorStep | InputName):
        return last_part(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(shown_value(item)) for item in value)
    return repr(value)


def each_value(space: Space) -> Iterator[Settings]:
    """Points with each value of each list, and both ends of each range, to see what a training refuses of them."""
    values = {name: (of.low, of.high) if isinstance(of, Between) else of for name, of in space.items()}
    first = {name: of[0] for name, of in values.items()}
    yield first
    yield from ({**first, name: value} for name, of in values.items() for value in of[1:])
