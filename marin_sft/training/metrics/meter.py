"""How much was trained, and how fast.

Speeds are of the time that training took: compilation is told apart, and evaluation, exports and checkpoints take no
part of it. tokens_per_second is there for every objective, `{example_name}_per_second` for those that name their
examples, as pairs_per_second for DPO.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

PER_SECOND = "_per_second"
TIMED = (PER_SECOND, "_seconds")  # end the names of figures that another run of the same does not repeat
_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclass(frozen=True)
class Amount:
    """What some steps trained, over all devices.

    `tokens`: that their rows hold, padding not counted. `computed`: tokens that the devices were given, fewer where
    rows share a prompt. `examples`: rows or pairs.
    """

    tokens: int = 0
    trained_tokens: int = 0
    examples: int = 0
    computed: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Amount) -> Amount:
        return Amount(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Speed:
    """Of each amount a second."""

    amount: Amount
    seconds: float

    def of(self, name: str) -> float:
        return float(getattr(self.amount, name) / max(self.seconds, 1e-9))

    def figures(self, example_name: str | None) -> dict[str, float]:
        """To log."""
        examples = {} if example_name is None else {f"{example_name}{PER_SECOND}": self.of("examples")}
        return {f"tokens{PER_SECOND}": self.of("tokens"), **examples}


@dataclass
class Meter:
    """Amounts and seconds since step 0, those of the attempts before this one included."""

    total: Amount = Amount()
    training_seconds: float = 0.0
    compilation_seconds: float = 0.0
    _now: float = field(init=False, default_factory=time.perf_counter)
    _read: Speed = field(init=False)

    def __post_init__(self) -> None:
        self._read = self.overall()

    @staticmethod
    def of(state: dict[str, Any]) -> Meter:
        """What `state` was taken of."""
        return Meter(**{**state, "total": Amount(**state["total"])})

    def state(self) -> dict[str, Any]:
        """JSON values, for the checkpoint to go on from. To be taken while paused."""
        seconds = {name: getattr(self, name) for name in ("training_seconds", "compilation_seconds")}
        return {"total": dataclasses.asdict(self.total), **seconds}

    def add(self, amount: Amount) -> None:
        self.total += amount

    def counters(self) -> dict[str, int]:
        return {"tokens": self.total.tokens, "trained_tokens": self.total.trained_tokens}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile is no training, and takes no time. To be entered when no step is under way."""
        self._advance()
        try:
            yield
        finally:
            self._now = time.perf_counter()

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """If JAX compiles meanwhile, the time is that of compilation."""
        import jax.monitoring  # planning reads names of this module

        compiled: list[float] = []

        def listen(event: str, seconds: float, **_: Any) -> None:
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
        """Of the whole run: its speed, and its seconds of training and of compilation."""
        speeds = self.overall().figures(example_name)
        return {
            **speeds,
            "training_seconds": self.training_seconds,
            "compilation_seconds": self.compilation_seconds,
        }

    def latest(self) -> Speed:
        """Since the last call, or since the meter was made."""
        overall = self.overall()
        speed = Speed(overall.amount - self._read.amount, overall.seconds - self._read.seconds)
        self._read = overall
        return speed

    def overall(self) -> Speed:
        """Since step 0."""
        self._advance()
        return Speed(self.total, self.training_seconds)

    def _advance(self) -> None:
        before, self._now = self._now, time.perf_counter()
        self.training_seconds += self._now - before
