"""The learning rate of each update."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from marin_sft.errors import TrainingError
from marin_sft.training.optimization.schedule_settings import ScheduleSettings, without_rounding

WSD_DECAY = 0.1  # the fraction of the steps in which "wsd" decays, unless `decay` is given
FEWEST_DECAYING = 2  # steps, if `decay` is a fraction: the first of them still has the peak rate
INV_SQRT_TIMESCALE = 10_000  # of "inv_sqrt" without a warmup


def schedule(settings: ScheduleSettings, num_steps: int) -> optax.Schedule:
    """The learning rate of each update, counted from 0: see `ScheduleSettings`.

    Raises:
        TrainingError: warmup and decay do not fit into `num_steps`.
    """
    warmup, decay = _steps(settings, num_steps)
    peak, stable = settings.learning_rate, num_steps - warmup - decay
    parts = [
        (warmup, optax.linear_schedule(0.0, peak, warmup)),
        (stable, optax.constant_schedule(peak)),
        (decay, _decaying(settings, warmup, decay)),
    ]
    parts = [(steps, part) for steps, part in parts if steps > 0]
    ends = [sum(steps for steps, _ in parts[: i + 1]) for i in range(len(parts))]
    return optax.join_schedules([part for _, part in parts], ends[:-1])


def _steps(settings: ScheduleSettings, num_steps: int) -> tuple[int, int]:
    """The numbers of warmup steps and of decay steps."""
    warmup, wanted = _count(settings.warmup, num_steps), settings.decay
    if settings.lr_schedule == "wsd" and wanted is None:
        wanted = WSD_DECAY
    left = max(num_steps - warmup, 0)
    if wanted is None:
        decay = left
    elif isinstance(wanted, float):  # a fraction is cut to what the warmup leaves, a number of steps is not
        decay = min(max(_count(wanted, num_steps), FEWEST_DECAYING), left)
    else:
        decay = _count(wanted, num_steps)
    if settings.lr_schedule == "constant":
        decay = 0
    if warmup + decay > num_steps:
        raise TrainingError(
            f"warmup = {settings.warmup!r} and decay = {settings.decay!r} take {warmup} + {decay} steps, but training "
            f"has {num_steps}; give fewer steps, or fractions"
        )
    return warmup, decay


def _count(part: int | float, num_steps: int) -> int:
    return int(without_rounding(part * num_steps)) if isinstance(part, float) else part


def _decaying(settings: ScheduleSettings, warmup: int, steps: int) -> optax.Schedule:
    """From the peak to the floor, counted from the start of the decay."""
    peak, floor = settings.learning_rate, _floor(settings)
    match settings.lr_schedule:
        case "cosine":
            return optax.cosine_decay_schedule(peak, max(steps, 1), floor / peak)
        case "inv_sqrt":
            timescale = warmup or INV_SQRT_TIMESCALE
            return lambda count: jnp.maximum(peak * jnp.sqrt(timescale / (timescale + _float(count))), floor)
        case _:
            return optax.linear_schedule(peak, floor, steps)


def _floor(settings: ScheduleSettings) -> float:
    if settings.learning_rate_end is not None:
        return settings.learning_rate_end
    return settings.learning_rate * (settings.min_lr_ratio or 0.0)


def _float(count: jax.typing.ArrayLike) -> jax.Array:
    return jnp.asarray(count, jnp.float32)
