"""Progress reports of a running step.

    progress.report(done=120, total=400, unit="steps", loss=1.32, tokens_per_second=5100.0)
    progress.kept(100)

The runner of an attempt installs listeners. Without any, e.g. in a notebook, reports are discarded.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units (None if unknown), and metrics to show, e.g. the loss. kept, doing, aside: see the
    functions."""

    done: float
    total: float | None
    unit: str
    metrics: dict[str, float] = field(default_factory=dict)
    kept: float = 0
    doing: str = ""
    aside: Mapping[str, float] = field(default_factory=dict)

    @property
    def count(self) -> str:
        """`120/400 steps`."""
        total = f"/{self.total:g}" if self.total is not None else ""
        return f"{self.done:g}{total} {_short(self.unit)}".rstrip()

    def text(self) -> str:
        """`120/400 steps  loss 1.32  tokens/s 5,100`, or `0/400 steps  compiling`."""
        return "  ".join([self.count, *([_short(self.doing)] if self.doing else []), *figure_texts(self.metrics)])


def is_text(line: str) -> bool:
    """Whether a line looks like a `Progress.text`."""
    return _TEXT.fullmatch(line) is not None


def figure_texts(figures: Mapping[str, float]) -> list[str]:
    """Each figure with its name, shortened for people."""
    return [f"{_short(name.replace('_per_second', '/s'))} {_number(value)}" for name, value in figures.items()]


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= _LONGEST_NAME else f"{line[:_LONGEST_NAME]}..."


def _number(value: object) -> str:
    if not isinstance(value, int | float):  # such as numpy's numbers, and words, at which no step may fail
        try:
            value = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return _short(str(value))
    if abs(value) >= _LONGEST_NUMBER:
        try:
            return f"{value:.4g}"
        except OverflowError:
            return "huge"
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


_LONGEST_NAME = 40
_LONGEST_NUMBER = 1e15
_TEXT = re.compile(r"\d[\d.e+]*(/\d[\d.e+]*)?( \S+)?(  compiling)?(  \S+ -?\d[\d,.e+-]*)*")

Listener = Callable[[Progress], None]


class _Hearing:
    """Some listeners, and what was kept meanwhile."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = listeners
        self.kept: float = 0
        self.aside: dict[str, float] = {}

    def hear(self, news: Progress) -> None:
        for listener in self.listeners:
            listener(news)


_hearing: ContextVar[_Hearing | None] = ContextVar("marin_sft_progress_hearing", default=None)


def report(done: float, total: float | None = None, unit: str = "", **metrics: float) -> None:
    """Report the progress of this step. It is cheap, so call it as often as you like."""
    hearing = _hearing.get()
    if hearing is not None:
        hearing.hear(Progress(done, total, unit, metrics, hearing.kept, aside=dict(hearing.aside)))


def compiling(done: float, total: float | None = None, unit: str = "") -> None:
    """Report that the next units have to wait until their program is compiled."""
    hearing = _hearing.get()
    if hearing is not None:
        hearing.hear(Progress(done, total, unit, {}, hearing.kept, "compiling"))


def kept(done: float) -> None:
    """Say that a later attempt of this step can continue after the first `done` units. Told with the next report.

    An attempt that is lost after that does not count against the retries of the step.
    """
    hearing = _hearing.get()
    if hearing is not None:
        hearing.kept = done


def aside(figures: Mapping[str, float]) -> None:
    """Set the newest of further figures, which the next reports carry for metrics of Ray, and do not show."""
    hearing = _hearing.get()
    if hearing is not None:
        hearing.aside.update(figures)


@contextmanager
def listening(*listeners: Listener) -> Iterator[None]:
    """Inside the block, send reports to `listeners`, and to no others."""
    token = _hearing.set(_Hearing(*listeners))
    try:
        yield
    finally:
        _hearing.reset(token)
