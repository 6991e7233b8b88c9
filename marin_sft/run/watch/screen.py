"""What the screen shows of a launch: its steps, as many as fit, and the end of a log. Only pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.text import Text

from marin_sft.execution.live_line import clock_text
from marin_sft.execution.tables import shortened
from marin_sft.execution.terminal import visible
from marin_sft.execution.view import COLOURS
from marin_sft.run.launches import coloured_status
from marin_sft.run.watch.launch import Moment, WatchedStep

KEYS = "q quit   j/k or arrows choose a step   l its log   f failed only"
_WORDS = ("running", "failed", "damaged", "interrupted")  # what is looked for, and so is listed first
_BAD = ("failed", "damaged", "interrupted", "blocked", "cancelled")
_WORD, _MARK = 12, 2  # columns
_LEAST_LOG = 6  # lines
_COLOURS = {
    **COLOURS,
    "running": "bold cyan",
    "interrupted": "yellow",
    "damaged": "bold red",
    "reused": "dim",
    "waiting": "dim",
    "not run": "dim",
}


@dataclass(frozen=True)
class View:
    """What the user chose to see. chosen: the directory of a step; None: one that runs, or else failed."""

    chosen: str | None = None
    whole_log: bool = False
    failed_only: bool = False

    def of(self, moment: Moment) -> list[WatchedStep]:
        """The steps to list, in the order of the DAG."""
        return [step for step in moment.steps if not self.failed_only or step.word in _BAD]

    def step(self, moment: Moment) -> WatchedStep | None:
        """The chosen one."""
        steps = self.of(moment)
        of_words = (step for word in _WORDS for step in steps if step.word == word)
        chosen = (step for step in steps if step.directory == self.chosen)
        last = (step for step in reversed(steps) if step.log)
        return next((step for found in (chosen, of_words, last, steps) for step in found), None)


def pressed(view: View, key: str, moment: Moment, height: int) -> View:
    """The view after a key."""
    if key in ("l", "enter"):
        return replace(view, whole_log=not view.whole_log)
    if key == "f":
        return replace(view, failed_only=not view.failed_only, chosen=None)
    steps, now = arranged(view, moment, height), view.step(moment)
    if now is None:
        return view
    page = max(1, height // 2)
    moves = {"j": 1, "down": 1, "k": -1, "up": -1, "pagedown": page, "pageup": -page, "g": -len(steps), "G": len(steps)}
    if key not in moves:
        return view
    place = min(max(steps.index(now) + moves[key], 0), len(steps) - 1)
    return replace(view, chosen=steps[place].directory)


def arranged(view: View, moment: Moment, height: int) -> list[WatchedStep]:
    """In the order of the DAG; if they do not all fit, first those that run or failed."""
    steps = view.of(moment)
    if len(steps) <= _room(view, height)[0]:
        return steps
    return sorted(steps, key=lambda step: _WORDS.index(step.word) if step.word in _WORDS else len(_WORDS))


def _room(view: View, height: int) -> tuple[int, int]:
    """The most lines for steps, and the fewest for a log with its title."""
    room = max(1, height - 3)
    of_log = min(max(_LEAST_LOG, room // 3), room // 2)
    return (1, room - 1) if view.whole_log else (room - of_log, of_log)


def screen(
    console: Console, view: View, moment: Moment, log: Sequence[str], width: int, height: int, now: float
) -> list[Text]:
    """At most `height` lines of at most `width` columns. log: its last lines. now: of the monotonic clock."""
    steps, chosen = arranged(view, moment, height), view.step(moment)
    most, _ = _room(view, height)
    lines = [_title(moment, width), _counts(moment), *_rows(steps, chosen, most, width, now)]
    if chosen is not None and chosen.log is not None and (left := height - len(lines) - 2) > 0:
        lines.append(Text(f"── log of {shortened(chosen.name, width - 12)} ".ljust(width, "─"), style="dim"))
        lines += _log_lines(console, log, left, width, view.whole_log)
    lines = lines[: height - 1]
    lines += [Text()] * (height - 1 - len(lines))
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return [*lines, Text(KEYS[:width], style="dim", no_wrap=True)]


def _title(moment: Moment, width: int) -> Text:
    status, launch = coloured_status(moment.status), moment.launch[23:]
    newer = f"  a newer launch has begun: {moment.newer[23:]}" if moment.newer else ""
    took = f" for {clock_text(moment.at - moment.begun)}" if moment.going else ""
    if moment.ended is not None:
        took = f" in {clock_text(moment.ended - moment.begun)}"
    began = f"  {moment.launch[:10]} {moment.launch[11:13]}:{moment.launch[13:15]} UTC"
    return Text.assemble((launch, "bold"), "  ", status, took, began, (newer, "yellow"))


def _counts(moment: Moment) -> Text:
    return Text(f"{len(moment.steps)} steps: ").append(counts_text(moment.steps))


def counts_text(steps: Sequence[WatchedStep]) -> Text:
    """`4 ran, 1 failed`, most telling first."""
    counts, order = Counter(step.word for step in steps), [*_WORDS, "blocked", "ran", "reused", "waiting"]
    words = sorted(counts, key=lambda word: order.index(word) if word in order else len(order))
    return Text(", ").join(Text(f"{counts[word]} {word}", style=_COLOURS.get(word, "")) for word in words)


def _rows(steps: list[WatchedStep], chosen: WatchedStep | None, most: int, width: int, now: float) -> list[Text]:
    if not steps:
        return [Text("no step failed", style="dim")]
    at = steps.index(chosen) if chosen in steps else 0
    if len(steps) <= most:
        shown, left_out = steps, []
    else:
        room = max(1, most - 1)  # the last line sums up the others
        first = min(max(0, at - room + 1), len(steps) - room)
        shown, left_out = steps[first : first + room], [*steps[:first], *steps[first + room :]]
    column = min(max(len(step.name) for step in shown), max(16, (width - _MARK - _WORD) * 2 // 5))
    rows = [_row(step, step is chosen, column, width, now) for step in shown]
    if left_out and most > 1:
        rows.append(Text(f"  and {len(left_out)} more: ", style="dim").append(counts_text(left_out)))
    return rows


def _row(step: WatchedStep, chosen: bool, column: int, width: int, now: float) -> Text:
    colour = _COLOURS.get(step.word, "")
    text = Text("> " if chosen else "  ", style="bold" if chosen else "").append(step.word.ljust(_WORD), style=colour)
    if step.line is not None:
        return text.append(step.line.text(width - _MARK - _WORD, now, column))
    name = shortened(step.name, column).ljust(column)
    text.append(name, style=colour if step.word in ("failed", "damaged") else "")
    return text.append(f"  {visible(step.remark)}", style="dim" if step.word == "ran" else "")


def _log_lines(console: Console, log: Sequence[str], most: int, width: int, folded: bool) -> list[Text]:
    """The last lines. folded: long ones are folded rather than cut."""
    found: list[Text] = []
    for line in reversed(log[-most:]):
        text = _log_line(line)
        found = [*(text.wrap(console, width, overflow="fold") if folded else [text]), *found]
        if len(found) >= most:
            break
    return found[-most:]


def _log_line(line: str) -> Text:
    text = Text.from_ansi(line.expandtabs(8))
    return text if visible(text.plain) == text.plain else Text(visible(text.plain))
