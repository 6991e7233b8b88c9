"""Which settings a sweep tries, as light values: the ranges of settings, and how points are chosen from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError
from marin_sft.training.checks import is_number


@dataclass(frozen=True)
class Between(metaclass=NamedFields):
    """The numbers from `low` to `high`, for a search that draws them: whole numbers if both are.

    log: draw the logarithm evenly, as is usual for learning rates.

    Raises:
        ConfigError: bounds that are no range.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (is_number(self.low) and is_number(self.high) and self.low < self.high):
            raise ConfigError(f"Between({self.low!r}, {self.high!r}): expected two numbers, the lower one first")
        if self.log and self.low <= 0:
            raise ConfigError(f"Between({self.low!r}, {self.high!r}, log=True): expected numbers above 0")

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> float:
        """The number at `share`, from 0 to below 1, of the range. Three digits: names and tables show it whole."""
        if self.whole and not self.log:
            return self.low + math.floor(share * (self.high - self.low + 1))
        if self.log:
            found = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            found = self.low + share * (self.high - self.low)
        rounded = float(f"{found:.3g}")
        within = min(max(round(found) if self.whole else rounded, self.low), self.high)
        return int(within) if self.whole else float(within)


@dataclass(frozen=True, kw_only=True)
class RandomSearch(metaclass=NamedFields):
    """So many different points, drawn evenly. With more `points`, the first ones stay the same.

    seed: of the draws. It has nothing to do with the seed of a training.
    """

    points: int
    seed: int = 0

    def __post_init__(self) -> None:
        _require_count(self, "points", self.points)


@dataclass(frozen=True, kw_only=True)
class OptunaSearch(metaclass=NamedFields):
    """So many points, each chosen by Optuna's TPE sampler from the results of those before.

    at_once: how many it chooses at a time, which then train side by side. Fewer know more: 1 is one after another.
    seed: of the sampler.
    """

    points: int
    at_once: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _require_count(self, "points", self.points)
        _require_count(self, "at_once", self.at_once)

    @property
    def rounds(self) -> list[int]:
        """How many points each round has."""
        starts = range(0, self.points, self.at_once)
        return [min(self.at_once, self.points - start) for start in starts]


@dataclass(frozen=True, kw_only=True)
class Halving(metaclass=NamedFields):
    """Successive halving (arXiv:1502.07943): all points train a part of the way, and the better ones go on from there.

    rungs: how far, in shares of the whole training; the last is 1. A rung is a piece of the whole training: its steps
        have the learning rate that they have there, and no step is trained twice.
    keep: the share of the points of a rung that go on.

    Raises:
        ConfigError: rungs that do not rise to 1, or a share that is none.
    """

    rungs: tuple[float, ...] = (0.25, 0.5, 1.0)
    keep: float = 0.5

    def __post_init__(self) -> None:
        rungs = tuple(self.rungs) if isinstance(self.rungs, list | tuple) else ()
        rises = all(is_number(rung) for rung in rungs) and all(a < b for a, b in zip((0, *rungs), rungs, strict=False))
        if not rises or len(rungs) < 2 or rungs[-1] != 1:
            raise ConfigError(
                f"Halving.rungs = {self.rungs!r}: expected at least two shares of the training that rise to 1, like "
                "(0.25, 0.5, 1.0)"
            )
        object.__setattr__(self, "rungs", tuple(map(float, rungs)))
        if not (is_number(self.keep) and 0 < self.keep < 1):
            raise ConfigError(f"Halving.keep = {self.keep!r}: expected the share of points that go on, like 0.5")

    def counts(self, points: int) -> list[int]:
        """How many points each rung has: of `points`, at least one goes on."""
        counts = [points]
        for _ in self.rungs[1:]:
            counts.append(max(1, math.floor(round(counts[-1] * self.keep, 6))))
        return counts


Search = RandomSearch | OptunaSearch


def _require_count(search: object, field: str, value: object) -> None:
    if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        raise ConfigError(f"{type(search).__name__}.{field} = {value!r}: expected a whole number, at least 1")
