"""The metrics of a training as curves, thinned so that a page can hold them.

Thinning keeps the lowest and the highest value of each stretch, so that a spike of one step stays visible.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from marin_sft.execution.documents import JsonObject
from marin_sft.execution.store import Store

COUNTERS = ("step", "epoch", "tokens", "trained_tokens")
_WHOLE = 32 << 20  # bytes of a log that is read whole; of a larger one, blocks spread over it
_BLOCKS, _BLOCK = 128, 1 << 16
_DIGITS = 6


@dataclass(frozen=True)
class Lines:
    """The lines of a metrics log. `size` in bytes; `whole`: whether these are all of them."""

    lines: tuple[JsonObject, ...]
    size: int
    whole: bool


def read_lines(store: Store, path: str) -> Lines:
    """All lines, or those in blocks spread evenly over a large log. A torn line is left out."""
    size = store.size(path)
    if size <= _WHOLE:
        return Lines(tuple(_parsed(store.read_from(path, 0, size), torn=False)) if size else (), size, True)
    starts = [index * (size - _BLOCK) // (_BLOCKS - 1) for index in range(_BLOCKS)]
    blocks = ((start, store.read_from(path, start, _BLOCK)) for start in starts)
    return Lines(tuple(line for start, block in blocks for line in _parsed(block, torn=start > 0)), size, False)


def _parsed(data: bytes, torn: bool) -> list[JsonObject]:
    """torn: the first line may have begun before the data."""
    found = []
    for line in data.split(b"\n")[1 if torn else 0 :]:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and _number(value.get("step")) is not None:
            found.append(value)
    return found


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def training_seconds(lines: Sequence[JsonObject]) -> list[float | None]:
    """Seconds of training up to each line, without compilation and evaluation, from the tokens and speeds logged."""
    total, before = 0.0, 0.0
    found: list[float | None] = []
    for line in lines:
        tokens, speed = _number(line.get("tokens")), _number(line.get("tokens_per_second"))
        if tokens is None or not speed or not math.isfinite(speed):
            return [None] * len(lines)
        total += (tokens - before) / speed
        before = tokens
        found.append(total)
    return found


def curves(store: Store, path: str, points: int) -> JsonObject | None:
    """Each metric of a log against step, tokens and seconds, with at most `points` points; None without a log.

    `gaps`: how many values of a metric are not finite. A metric that was never known is listed in `unknown`.
    """
    read = read_lines(store, path)
    if not read.lines:
        return None
    seconds = training_seconds(read.lines) if read.whole else [None] * len(read.lines)
    names = dict.fromkeys(name for line in read.lines for name in line if name not in COUNTERS)
    metrics, unknown = {}, []
    for name in names:
        found = _curve(read.lines, seconds, name, points)
        if found is None:
            unknown.append(name)
        else:
            metrics[name] = found
    last = read.lines[-1]
    return {
        "metrics": metrics,
        "unknown": unknown,
        "lines": len(read.lines),
        "whole": read.whole,
        "bytes": read.size,
        "last": {name: value for name, value in last.items() if _finite(value)},
    }


def _finite(value: object) -> bool:
    number = _number(value)
    return number is not None and math.isfinite(number)


def _curve(lines: Sequence[JsonObject], seconds: Sequence[float | None], name: str, points: int) -> JsonObject | None:
    given = [i for i, line in enumerate(lines) if _number(line.get(name)) is not None]
    finite = [i for i in given if _finite(lines[i][name])]
    if not given:
        return None
    kept = thinned(finite, [lines[i][name] for i in finite], points)
    has_seconds = bool(kept) and seconds[kept[0]] is not None
    return {
        "step": [lines[i]["step"] for i in kept],
        "tokens": [lines[i].get("tokens") for i in kept],
        "seconds": [rounded(seconds[i] or 0.0) for i in kept] if has_seconds else None,
        "value": [rounded(lines[i][name]) for i in kept],
        "points": len(finite),
        "gaps": len(given) - len(finite),
    }


def thinned(places: Sequence[int], values: Sequence[float], points: int) -> list[int]:
    """At most `points` of the places: the first, the last, and the extremes of equal stretches between them."""
    if len(places) <= points:
        return list(places)
    stretches = (points - 2) // 2
    kept = {0, len(places) - 1}
    for stretch in range(stretches):
        inside = range(stretch * len(places) // stretches, (stretch + 1) * len(places) // stretches)
        kept |= {min(inside, key=values.__getitem__), max(inside, key=values.__getitem__)}
    return [places[i] for i in sorted(kept)]


def rounded(value: float) -> float:
    """To the digits that a chart can show."""
    return float(f"{value:.{_DIGITS}g}")
