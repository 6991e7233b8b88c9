"""The line of a running step on a terminal: its name, how far it is, its first figure, and the time that is left."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from marin_sft.execution.tables import shortened
from marin_sft.progress import Progress, figure_texts

_BAR = 24  # columns
_LEAST_BAR = 10
_LEAST_NAME = 16


@dataclass
class LiveLine:
    """Times are seconds of one clock.

    submitted: when the step was handed to the backend. claimed: when its attempt was first seen to have begun.
    first, latest: the time and the `done` of progress in the current unit, from which the speed is judged.
    told_queued: whether it was said that it waits, where there are no such lines.
    """

    name: str
    submitted: float
    claimed: float | None = None
    news: Progress | None = None
    first: tuple[float, float] | None = None
    latest: tuple[float, float] | None = None
    told_queued: bool = False

    def hear(self, news: Progress, now: float) -> None:
        other_unit = self.news is None or self.news.unit != news.unit or self.news.doing != news.doing
        if other_unit or self.first is None:
            self.first = self.latest = (now, news.done)
        elif self.latest and news.done != self.latest[1]:
            self.latest = (now, news.done)
        self.news = news

    def seconds_left(self, now: float) -> float | None:
        """None if that is not known: nothing is done yet, or the total is not known."""
        if not (self.news and self.news.total and self.first and self.latest) or self.news.doing:
            return None
        done, since = self.latest[1] - self.first[1], self.latest[0] - self.first[0]
        if done <= 0 or since <= 0:
            return None
        return max(0.0, (self.news.total - self.latest[1]) * since / done - (now - self.latest[0]))

    def text(self, width: int, now: float, column: int = 0) -> Text:
        """At most `width` columns. column: of so many columns for the name, if there is room."""
        news = self.news
        if news is None:
            state, since = ("queued", self.submitted) if self.claimed is None else ("running", self.claimed)
            end = f"{state} {clock_text(now - since)}"
            return Text(f"{_name(self.name, width - len(end) - 2, column)}  {end}")
        left = self.seconds_left(now)
        end = (
            f"{clock_text(now - (self.claimed or self.submitted))} so far"
            if left is None
            else f"{clock_text(left)} left"
        )
        figures = [*([news.doing] if news.doing else []), *figure_texts(news.metrics)]
        parts = [news.count, *figures[:1], end]
        name = _name(self.name, max(_LEAST_NAME, width - len("  ".join(parts)) - 2), column)
        room = width - len("  ".join([name, *parts]))
        for figure in figures[1:]:
            if len(figure) + 2 <= room:
                parts.insert(-1, figure)
                room -= len(figure) + 2
        text = Text(name)
        if news.total and room >= _LEAST_BAR + 2:
            bar = min(_BAR, room - 2)
            filled = round(bar * min(1.0, max(0.0, news.done / news.total)))
            text.append("  ").append("━" * filled, style="green").append("━" * (bar - filled), style="dim")
        text.append("  " + "  ".join(parts))
        text.truncate(width)
        return text


def _name(name: str, room: int, column: int) -> str:
    return shortened(name, min(room, column)).ljust(min(room, column)) if column else shortened(name, room)


def clock_text(seconds: float) -> str:
    """`0:09`, `1:10`, `2:03:04`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
