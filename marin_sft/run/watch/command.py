"""`marin-sft watch`: shows a launch on the whole terminal until `q`; without a terminal, once, as `status` does."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import asdict

from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.screen import Screen
from rich.text import Text

from marin_sft.errors import MarinSftError
from marin_sft.execution.live_output import line_text
from marin_sft.execution.patience import no_patience
from marin_sft.execution.signals import sigterm_as_interrupt
from marin_sft.execution.store import Store
from marin_sft.execution.tables import duration_text
from marin_sft.execution.terminal import visible
from marin_sft.run.context import Context
from marin_sft.run.status import print_statuses, read_statuses
from marin_sft.run.watch.launch import Moment, WatchedLaunch, WatchedStep, find_watched
from marin_sft.run.watch.screen import View, pressed, screen

_FRAME = 0.5  # seconds between two frames, for the clocks
_SHARE = 5  # at most one part in so many of the time goes into reading
_LOG = 64 << 10  # bytes of a log's end
_SILENT = 3  # intervals without an answer of the store until that is said
_KEY = re.compile(r"\x1b(?:\[[0-9;]*[~A-Za-z]|O[A-Za-z])|.|\n", re.DOTALL)
_NAMES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "pageup",
    "\x1b[6~": "pagedown",
    "\n": "enter",
}


def watch(context: Context) -> None:
    """See `marin_sft.run.command.watch`."""
    store = context.store
    launch = find_watched(store, context.arguments.launch)
    on_screen = context.console.is_terminal and not context.console.is_dumb_terminal and sys.stdin.isatty()
    if on_screen and not context.json:
        with sigterm_as_interrupt():
            _show(context.console, store, WatchedLaunch(store, launch))
        return
    found = read_statuses(store, None, (), [launch])
    context.say([asdict(item) for item in found], lambda: print_statuses(context.console, store, found))


class _Reader:
    """Reads the launch, and the end of the log of the step to show, in a thread of its own."""

    def __init__(self, store: Store, launch: WatchedLaunch) -> None:
        self._store, self._launch = store, launch
        self._wanted: str | None = None  # path of a log
        self._wake = threading.Event()
        self._looked = -float("inf")
        self.every = store.beat_seconds
        self.moment: Moment | None = None
        self.log: tuple[str | None, list[str]] = (None, [])
        self.seen = time.monotonic()
        self.problem = "the store does not answer"
        self.trouble: BaseException | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def show(self, step: WatchedStep | None) -> list[str]:
        """The end of the step's log, as far as it was read."""
        wanted = step.log if step else None
        if wanted != self._wanted:
            self._wanted = wanted
            self._wake.set()
        path, lines = self.log
        return lines if path == wanted else []

    @no_patience()
    def _read(self) -> None:
        while True:
            self._wake.clear()  # before looking at what is wanted, so that no wish is missed
            try:
                began = time.monotonic()
                if began - self._looked >= self.every:
                    self.moment = self._launch.look()
                    self._looked = self.seen = time.monotonic()
                    self.every = max(self._store.beat_seconds, _SHARE * (self._looked - began))
                wanted = self._wanted
                self.log = (wanted, log_end(self._store, wanted) if wanted else [])
            except (MarinSftError, OSError) as error:
                if self.moment is None:
                    self.trouble = error
                    return
                self._looked, self.problem = time.monotonic(), str(error)
            except BaseException as error:  # shown by the main thread, which restores the terminal
                self.trouble = error
                return
            self._wake.wait(max(0.1, self._looked + self.every - time.monotonic()))


def log_end(store: Store, path: str) -> list[str]:
    """The last lines of a log that are not empty."""
    start = max(0, store.size(path) - _LOG)
    lines = store.read_from(path, start, _LOG).split(b"\n")
    return [text for line in (lines[1:] if start else lines) if (text := line_text(line)).strip()]


def _show(console: Console, store: Store, launch: WatchedLaunch) -> None:
    reader, view = _Reader(store, launch), View()
    canvas = Canvas(console)
    with _keys() as pressed_keys, console.screen(hide_cursor=True):
        while True:
            if reader.trouble is not None:
                raise reader.trouble
            height = console.height
            if reader.moment is None:
                canvas.draw(Text(f"reading {store.prefix} ..."))
            else:
                canvas.draw(_frame(console, reader, view, reader.moment))
            for key in pressed_keys(_FRAME):
                if key in ("q", "Q", "end"):
                    return
                if reader.moment is not None:
                    view = pressed(view, key, reader.moment, height)


class Canvas:
    """Writes frames over each other, each from the first cell on, so that nothing scrolls, and only what is new."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn: tuple[object, str] | None = None  # at a size

    def draw(self, frame: RenderableType) -> None:
        size = self._console.size
        with self._console.capture() as captured:
            self._console.print(Control.home(), Screen(frame), end="")
        if (size, captured.get()) != self._drawn:
            self._drawn = size, captured.get()
            self._console.file.write(captured.get())
            self._console.file.flush()


def _frame(console: Console, reader: _Reader, view: View, moment: Moment) -> Group:
    now, width, height = time.monotonic(), console.width, console.height
    log = reader.show(view.step(moment))
    lines = screen(console, view, moment, log, width, height, now)
    if moment.going and (silent := now - reader.seen) > _SILENT * reader.every:
        told = f"as of {duration_text(silent)} ago: {visible(reader.problem)}"
        lines[0] = Text(told, style="bold red", no_wrap=True, overflow="ellipsis")
    return Group(*lines)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], list[str]]]:
    """Yields a function that waits at most so many seconds for keys. "end": the terminal is gone."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def read(seconds: float) -> list[str]:
        if not select.select([terminal], [], [], seconds)[0]:
            return []
        data = os.read(terminal, 1024)
        found = _KEY.findall(data.decode(errors="replace"))
        return [_NAMES.get(key, key) for key in found] if data else ["end"]

    try:
        tty.setcbreak(terminal)
        mode = termios.tcgetattr(terminal)
        mode[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the shell with our screen
        termios.tcsetattr(terminal, termios.TCSANOW, mode)
        yield read
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
