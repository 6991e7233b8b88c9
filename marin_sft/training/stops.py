"""What ends training before its last step: a metric that no longer improves, and a time limit."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError
from marin_sft.training.checks import check_types, require, unresolved

_UNITS = {"d": 86400, "day": 86400, "h": 3600, "hour": 3600, "m": 60, "min": 60, "minute": 60, "s": 1, "sec": 1}
_UNITS |= {"second": 1, "hr": 3600}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(metaclass=NamedFields):
    """Training ends when `metric` has not improved by more than `min_delta` in `patience` evaluations in a row.

    The model is that of the last step, not of the best one.

    Raises:
        ConfigError: for a value that cannot be used.
    """

    steps: int
    """Steps between two evaluations. It replaces `steps_per_eval`, because here it changes the result."""

    patience: int
    """Evaluations without improvement after which training ends."""

    metric: str = "validation/loss"
    """A figure of the evaluation, under its name in metrics.jsonl."""

    min_delta: float = 0.0
    """The least change that counts as an improvement."""

    greater_is_better: bool = False
    """True for metrics like accuracy, False for losses."""

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        check_types(self)
        for field in ("steps", "patience"):
            require(self, field, getattr(self, field) >= 1, "at least 1")
        require(self, "min_delta", self.min_delta >= 0, "at least 0")

    def reason(self, evaluations: Sequence[tuple[int, float]]) -> str | None:
        """Why training ends after these (step, value) of the metric, newest last. None: it goes on."""
        sign = -1 if self.greater_is_better else 1
        best_step, best, since = 0, float("inf"), 0
        for step, value in evaluations:
            if sign * value < best - self.min_delta:
                best_step, best, since = step, sign * value, 0
            else:
                since += 1
        if since < self.patience:
            return None
        return (
            f"{self.metric} is {evaluations[-1][1]:.6g}, and was {sign * best:.6g} at step {best_step}: not better by "
            f"more than min_delta = {self.min_delta:g} in {since} evaluations"
        )


class TimeLimit:
    """Whether `seconds` have passed since this was made. None: there is no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end


def parse_duration(text: str) -> float:
    """Seconds in "90min", "23h", "2h30m", "1d 12h" or "45 s": numbers, each with its unit.

    Raises:
        ConfigError: for anything else, including numbers without a unit.
    """
    seconds, rest = 0.0, text.lower()
    while part := _PART.match(rest):
        unit = _UNITS.get(part[2]) or _UNITS.get(part[2].removesuffix("s"))
        if unit is None:
            break
        seconds, rest = seconds + float(part[1]) * unit, rest[part.end() :]
    if rest or seconds <= 0:
        raise ConfigError(f"{text!r}: expected a time above 0 with its units, e.g. 90min, 23h or 2h30m")
    return seconds
