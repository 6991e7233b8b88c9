"""The table that a benchmark prints: ours, each peer with its ratio to ours, the targets and whether they hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """At most `limit` seconds; with a `peer`, at least `limit` times faster than it. Or what `holds` says."""

    text: str
    limit: float = 0.0
    peer: str | None = None
    holds: bool | None = None

    def verdict(self, seconds: dict[str, float]) -> str:
        holds = self.holds
        if self.peer in seconds:
            holds = seconds[self.peer] >= self.limit * seconds["ours"]
        elif self.peer is None and holds is None:
            holds = seconds["ours"] <= self.limit
        verdict = {True: "holds", False: "MISSED", None: "not measured"}[holds]
        return f"{self.text}{f' {self.peer}' if self.peer else ''}: {verdict}"


@dataclass(frozen=True)
class Row:
    """`seconds` by engine. "ours" is always present."""

    work: str
    seconds: dict[str, float]
    targets: list[Target] = field(default_factory=list)

    def cells(self, engines: list[str]) -> list[str]:
        return [self.work, *map(self._cell, engines), "; ".join(t.verdict(self.seconds) for t in self.targets)]

    def _cell(self, engine: str) -> str:
        if engine not in self.seconds:
            return ""
        seconds = self.seconds[engine]
        text = f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"
        return text if engine == "ours" else f"{text} ({seconds / self.seconds['ours']:.1f}x)"


def print_table(engines: list[str], rows: Iterable[Row]) -> None:
    """Line by line, as rows arrive: a run takes minutes."""
    print(_line(["work", *engines, "targets"]))
    print(_line(["---"] * (len(engines) + 2)))
    for row in rows:
        print(_line(row.cells(engines)), flush=True)


def _line(cells: list[str]) -> str:
    first, *others, last = cells
    return f"| {first:<48} | " + " | ".join(f"{cell:>18}" for cell in others) + f" | {last} |"
