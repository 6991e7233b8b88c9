"""The progress of a running step as gauges of Ray, which Prometheus scrapes from each node.

    ray_marin_sft_step, ray_marin_sft_steps    what is done and the total, in the label `unit`
    ray_marin_sft_loss, ray_marin_sft_tokens, ... each figure of a report under its own name, those told aside, too

All have the labels `step`, the step's name, and `attempt`.
"""

from __future__ import annotations

import math
import re
import threading
from functools import cache
from typing import TYPE_CHECKING

from marin_sft.progress import Progress

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

# Ray hands each value on once, and the node forgets it after 20 seconds. So values are set again, however rarely the
# step reports. It is also the only cost: a report itself sets nothing.
SECONDS = 1.0

_COUNTS = ("marin_sft_step", "marin_sft_steps")  # which have another label
Labels = tuple[tuple[str, str], ...]


class AttemptGauges:
    """Inside the block, shows the newest report of an attempt. After it, its gauges are NaN, and then gone."""

    def __init__(self, step: str, attempt: int) -> None:
        self._labels = (("step", step), ("attempt", str(attempt)))
        self._newest: Progress | None = None
        self._shown = set[tuple[str, Labels]]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def hear(self, news: Progress) -> None:
        self._newest = news

    def _run(self) -> None:
        while not self._ended.wait(SECONDS):
            self._show(self._newest)

    def _show(self, news: Progress | None) -> None:
        values = gauge_values(news, self._labels) if news else {}
        for (name, labels), value in {**dict.fromkeys(self._shown, math.nan), **values}.items():
            _gauge(name, tuple(key for key, _ in labels)).set(value, dict(labels))
        self._shown = set(values)

    def __enter__(self) -> AttemptGauges:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._show(None)


def gauge_values(news: Progress, labels: Labels) -> dict[tuple[str, Labels], float]:
    """The value of each gauge, by its name and labels. What is not a number is left out."""
    told: dict[str, object] = {_name(figure): value for figure, value in {**news.aside, **news.metrics}.items()}
    known: dict[tuple[str, Labels], object] = {
        (name, labels): value for name, value in told.items() if name not in _COUNTS
    }
    for name, count in zip(_COUNTS, (news.done, news.total), strict=True):
        known[name, (*labels, ("unit", str(news.unit)))] = count
    return {key: number for key, value in known.items() if (number := _number(value)) is not None}


def _name(figure: str) -> str:
    return "marin_sft_" + re.sub(r"\W", "_", figure, flags=re.ASCII)


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


@cache
def _gauge(name: str, labels: tuple[str, ...]) -> Gauge:
    from ray.util.metrics import Gauge

    return Gauge(name, description="of a running step of marin_sft", tag_keys=labels)
