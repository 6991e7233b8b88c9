"""The settings of the learning rate, from which `schedules` makes a schedule. Light: no JAX."""

from __future__ import annotations

from marin_sft.arguments import part_of_config
from marin_sft.execution.step import omitted_when
from marin_sft.training.checks import require, require_one_of

LR_SCHEDULES = ("constant", "linear", "cosine", "inv_sqrt", "wsd")
NEVER_DECAY = ("constant", "inv_sqrt")  # schedules that do not use `decay`
DEFAULT_MIN_LR_RATIO = 0.1


@part_of_config
class ScheduleSettings:
    """The learning rate of each step."""

    learning_rate: float
    """The peak rate."""

    lr_schedule: str = "cosine"
    """How the rate falls. "constant": not at all. "linear". "cosine": half a period. "wsd" (warmup, stable, decay): as
    "linear", but decay=None means the last tenth of the steps. "inv_sqrt": learning_rate * sqrt(T / (T + steps since
    the warmup)), where T is the number of warmup steps, or 10,000 without a warmup."""

    warmup: int | float = 0.03
    """The steps over which the rate rises from 0: a whole number, or a fraction of all steps."""

    decay: int | float | None = None
    """The last steps, over which the rate falls to its floor: a whole number, or a fraction of all steps. A fraction is
    at least two steps, because the first still has the peak rate. None: all steps after the warmup."""

    min_lr_ratio: float | None = DEFAULT_MIN_LR_RATIO
    """The floor as a fraction of `learning_rate`."""

    learning_rate_end: float | None = omitted_when(None, default=None)
    """The floor itself. It replaces `min_lr_ratio`."""

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
        require(self, "min_lr_ratio", not flat, "no value: lr_schedule = 'constant' stays at learning_rate")
        end = self.learning_rate_end
        if end is not None:
            require(self, "learning_rate_end", 0 <= end <= self.learning_rate, "from 0 to learning_rate, or None")
            require(self, "learning_rate_end", self.lr_schedule != "constant", "None where lr_schedule is 'constant'")
            require(self, "min_lr_ratio", unsaid, f"no value, because learning_rate_end = {end} sets the floor already")


def _is_part(value: int | float, whole: bool = False) -> bool:
    """Whether `value` is a whole number of steps, or a fraction of them. `whole`: the fraction may be 1.0."""
    if isinstance(value, float):
        return value < 1 or (whole and value == 1)
    return True


def without_rounding(steps: float) -> float:
    """`steps` without the rounding error of floats: 1.1 * 100 / 10 is 11."""
    return round(steps, 6)
