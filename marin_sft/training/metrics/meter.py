"""How much was trained, and how fast.

Speeds count training time only: not compilation, which is reported separately, nor evaluation, exports and checkpoints.
Every objective has tokens_per_second. Those that name their examples also have `{example_name}_per_second`, e.g.
pairs_per_second for DPO.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

from marin_sft.training.models.model_config import Fields

PER_SECOND = "_per_second"
TIMED = (PER_SECOND, "_seconds")  # endings of figures that differ between identical runs
_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclass(frozen=True)
class Amount:
    """What some steps trained, over all devices.

    tokens: tokens in their rows, without padding.
    computed: tokens that ran on the devices; fewer than `tokens` if rows share a prompt.
    examples: rows or pairs.
    attended: pairs of a token and one that it attends to, summed over the layers.
    """

    tokens: int = 0
    trained_tokens: int = 0
    examples: int = 0
    computed: int = 0
    attended: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Amount) -> Amount:
        return Amount(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Speed:
    """Amounts per second."""

    amount: Amount
    seconds: float

    def of(self, name: str) -> float:
        return float(getattr(self.amount, name) / max(self.seconds, 1e-9))

    def figures(self, example_name: str | None) -> dict[str, float]:
        """Speeds to log, by name."""
        examples = {} if example_name is None else {f"{example_name}{PER_SECOND}": self.of("examples")}
        return {f"tokens{PER_SECOND}": self.of("tokens"), **examples}


@dataclass
class Meter:
    """Amounts and seconds since step 0, including those of earlier attempts."""

    total: Amount = Amount()
    training_seconds: float = 0.0
    compilation_seconds: float = 0.0
    _now: float = field(init=False, default_factory=time.perf_counter)
    _read: Speed = field(init=False)

    def __post_init__(self) -> None:
        self._read = self.overall()

    @staticmethod
    def of(state: Fields) -> Meter:
        """The meter whose `state` this is."""
        return Meter(**{**state, "total": Amount(**state["total"])})

    def state(self) -> Fields:
        """JSON values for a checkpoint. Call it while paused."""
        seconds = {name: getattr(self, name) for name in ("training_seconds", "compilation_seconds")}
        return {"total": dataclasses.asdict(self.total), **seconds}

    def add(self, amount: Amount) -> None:
        self.total += amount

    def counters(self) -> dict[str, int]:
        return {"tokens": self.total.tokens, "trained_tokens": self.total.trained_tokens}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in this block does not count. Enter it when no step is running."""
        self._advance()
        try:
            yield
        finally:
            self._now = time.perf_counter()

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """If JAX compiles in this block, its time counts as compilation."""
        import jax.monitoring  # planning reads names of this module

        compiled: list[float] = []

        def listen(event: str, seconds: float, **_: object) -> None:
            if event == _COMPILED:
                compiled.append(seconds)

        self._advance()
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
            if compiled:
                before, self._now = self._now, time.perf_counter()
                self.compilation_seconds += self._now - before

    def summary(self, example_name: str | None) -> dict[str, float]:
        """For the whole run: its speed, and the seconds of training and of compilation."""
        speeds = self.overall().figures(example_name)
        return {
            **speeds,
            "training_seconds": self.training_seconds,
            "compilation_seconds": self.compilation_seconds,
        }

    def latest(self) -> Speed:
        """Speed since the last call, or since the meter was made."""
        overall = self.overall()
        speed = Speed(overall.amount - self._read.amount, overall.seconds - self._read.seconds)
        self._read = overall
        return speed

    def overall(self) -> Speed:
        """Speed since step 0."""
        self._advance()
        return Speed(self.total, self.training_seconds)

    def _advance(self) -> None:
        before, self._now = self._now, time.perf_counter()
        self.training_seconds += self._now - before
