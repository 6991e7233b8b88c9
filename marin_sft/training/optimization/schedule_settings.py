"""The settings of the learning rate, which `schedules` makes a schedule of. Light: no JAX."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.execution.step import omitted_when
from marin_sft.training.checks import require, require_one_of

LR_SCHEDULES = ("constant", "linear", "cosine", "inv_sqrt", "wsd")
NEVER_DECAY = ("constant", "inv_sqrt")  # of them: those for which `decay` has no meaning
DEFAULT_MIN_LR_RATIO = 0.1


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The learning rate of each step."""

    learning_rate: float
    """The highest rate."""

    lr_schedule: str = "cosine"
    """How the rate falls. "constant": not at all. "linear". "cosine": half a period of it. "wsd" (warmup, stable,
    decay): as "linear", but decay=None is the last tenth. "inv_sqrt": learning_rate * sqrt(T / (T + steps since the
    warmup)), where T is the steps of the warmup, or 10,000 without one."""

    warmup: int | float = 0.03
    """The steps over which the rate rises from 0: a whole number, or a fraction of all steps."""

    decay: int | float | None = None
    """The last steps, over which the rate falls to its floor: a whole number, or a fraction of all steps, which is at
    least two steps, since the first still has the whole rate. None: all steps after the warmup."""

    min_lr_ratio: float | None = DEFAULT_MIN_LR_RATIO
    """The floor as a fraction of `learning_rate`."""

    learning_rate_end: float | None = omitted_when(None, default=None)
    """The floor itself, instead of `min_lr_ratio`."""

    def check_schedule(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        require(self, "learning_rate", self.learning_rate > 0, "a number above 0")
        require_one_of(self, "lr_schedule", LR_SCHEDULES)
        steps = "a whole number of steps, or a fraction of them below 1"
        require(self, "warmup", _is_part(self.warmup) and self.warmup >= 0, steps)
        if self.decay is not None:
            decays = _is_part(self.decay, whole=True) and self.decay > 0
            require(self, "decay", decays, "a whole number of steps, a fraction of them above 0, or None")
            shape = self.lr_schedule not in NEVER_DECAY
            require(self, "decay", shape, f"None where lr_schedule is {self.lr_schedule!r}; 'wsd' decays at the end")
        self._check_floor()

    def _check_floor(self) -> None:
        ratio = self.min_lr_ratio
        require(self, "min_lr_ratio", ratio is None or 0 <= ratio <= 1, "a fraction of learning_rate, from 0 to 1")
        unsaid = ratio in (None, DEFAULT_MIN_LR_RATIO)
        flat = self.lr_schedule == "constant" and not unsaid and ratio != 0
        require(self, "min_lr_ratio", not flat, "nothing where lr_schedule is 'constant', which stays at learning_rate")
        end = self.learning_rate_end
        if end is not None:
            require(self, "learning_rate_end", 0 <= end <= self.learning_rate, "from 0 to learning_rate, or None")
            require(self, "learning_rate_end", self.lr_schedule != "constant", "None where lr_schedule is 'constant'")
            require(self, "min_lr_ratio", unsaid, f"no value, because learning_rate_end = {end} sets the floor already")


def _is_part(value: int | float, whole: bool = False) -> bool:
    """A whole number of steps, or a fraction of them; `whole`: which may be 1.0, all."""
    if isinstance(value, float):
        return value < 1 or (whole and value == 1)
    return True


def without_rounding(steps: float) -> float:
    """`steps`, or the whole number that it misses by the rounding of floats alone: 1.1 * 100 / 10 is 11."""
    return round(steps, 6)
