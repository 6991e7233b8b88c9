"""`marin-sft watch`, on a launch that runs, in pseudoterminals and without one."""

import fcntl
import io
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.text import Text

from marin_sft.errors import UserError
from marin_sft.execution.catalog import read_catalog
from marin_sft.execution.claims import read_claim
from marin_sft.execution.clock import seconds_since_epoch
from marin_sft.execution.console import TextConsole
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
from marin_sft.execution.record import read_launches
from marin_sft.execution.step_state import read_state
from marin_sft.execution.stores import open_store
from marin_sft.execution.tables import duration_text
from marin_sft.progress import Progress
from marin_sft.run import command, status
from marin_sft.run.watch.command import Canvas, log_end
from marin_sft.run.watch.launch import Moment, WatchedLaunch, WatchedStep, find_watched
from marin_sft.run.watch.screen import View, arranged, pressed, screen
from tests.run.report.test_server import CountingStore

ROOT = Path(__file__).parents[3]
EVERYTHING = View()
NAME = "2026-01-02T030405.678Z-many-abcdef"


@pytest.fixture
def moment(launched):
    (launch,) = read_launches(launched.store)
    watched = WatchedLaunch(launched.store, launch)
    deadline = time.monotonic() + 30
    while not (found := watched.look()).steps[2].line.news and time.monotonic() < deadline:
        pass  # the next beat brings the progress
    return found


def plain(lines):
    return [line.plain for line in lines]


def shown(moment, view=EVERYTHING, log=(), width=80, height=24):
    lines = screen(TextConsole(width=width, height=height), view, moment, log, width, height, time.monotonic())
    assert len(lines) == height and max(line.cell_len for line in lines) <= width
    return plain(lines)


def test_what_is_shown_of_each_step(moment, launched):
    first = moment.steps[0].directory
    commit = read_state(launched.store, first).commit
    begun = read_claim(launched.store, first, commit.attempt).time
    took = duration_text(seconds_since_epoch(commit.time) - seconds_since_epoch(begun))
    assert [(step.name, step.word) for step in moment.steps] == [
        ("some/first", "ran"),
        ("some/bad", "failed"),
        ("some/going", "running"),
        ("some/after", "waiting"),
    ]
    text = "\n".join(shown(moment, log=["one", "\x1b[31mtwo\x1b[0m\x07"]))
    assert re.search(rf"ran +some/first +{took}  loss 0.25\n", text)
    assert re.search(r"failed +some/bad +ValueError: told to fail: got 7; expected 8\n", text)
    assert re.search(r"> running +some/going +━+  3/10 steps  loss 0.5  0:\d\d so far\n", text)
    assert "4 steps: 1 running, 1 failed, 1 ran, 1 waiting" in text and "running for 0:" in text
    assert "log of some/going" in text and "\none\ntwo" in text and "\x07" not in text


def test_time_left_once_progress_was_heard_twice(moment):
    line = moment.steps[2].line
    line.hear(Progress(6, 10, "steps", {"loss": 0.25}), line.latest[0] + 30)
    assert re.search(r"6/10 steps  loss 0.25  1:[01]\d left", "\n".join(shown(moment)))


def many(count):
    steps = [WatchedStep(f"group/step_number_{n}", f"d{n}", "ran" if n < 5 else "waiting") for n in range(count)]
    steps[count // 2] = WatchedStep("group/broken", "broken", "failed", "no", attempt=1, log="/log")
    return Moment(NAME, "running", 0.0, None, 250.0, tuple(steps))


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 8), (20, 3)])
@pytest.mark.parametrize("count", [3, 2000])
def test_it_fits_whatever_the_size(count, width, height):
    for view in (View(), View(whole_log=True), View(failed_only=True), View("d1")):
        log = [f"line {n} " * 20 for n in range(100)]
        text = "\n".join(shown(many(count), view, log, width, height))
        assert "broken" in text or height < 5 or view.chosen


def test_of_many_steps_those_that_failed_are_first_and_the_rest_is_summed_up():
    lines = shown(many(2000), height=24)
    assert lines[0] == "many-abcdef  running for 4:10  2026-01-02 03:04 UTC"
    rows = [line for line in lines if "group/" in line and "log of" not in line]
    assert "group/broken" in rows[0] and rows[0].startswith("> failed")
    assert f"and {2000 - len(rows)} more: " in "\n".join(lines) and len(rows) > 10
    assert many(20).steps == tuple(arranged(View(), many(20), 40)), "if all fit, they stay in the order of the DAG"


def test_keys_move_through_all_steps_and_back():
    found, view, seen = many(2000), View(), set()
    for key in ("G", "k", "g", "j", "down", "up", "pagedown", "pageup"):
        view = pressed(view, key, found, 24)
        seen.add(view.chosen)
        (marked,) = (line for line in shown(found, view) if line.startswith("> "))
        assert next(step.name for step in found.steps if step.directory == view.chosen) in marked
    assert {"d1999", "d1998", "broken", "d0"} <= seen
    assert pressed(view, "x", found, 24) == view
    failed = pressed(view, "f", found, 24)
    assert [line for line in shown(found, failed) if "group/" in line and "log of" not in line] == [
        "> failed      group/broken  no"
    ]
    assert "no step failed" in "\n".join(shown(Moment(NAME, "done", 0.0, 9.0, 10.0, ()), failed))


def test_the_whole_log_is_folded():
    text = shown(many(3), View("broken", whole_log=True), ["short", "x" * 200], 80, 24)
    at = text.index("short")
    assert [len(line) for line in text[at + 1 : at + 4]] == [80, 80, 40]


def test_no_more_store_calls_than_status(launched):
    counted = CountingStore(launched.store)
    status.read_statuses(counted, None, read_catalog(counted).steps)
    of_status, counted.calls = len(counted.calls), []
    watched = WatchedLaunch(counted, find_watched(counted, None))
    watched.look()
    assert len(counted.calls) <= of_status
    counted.calls = []
    watched.look()
    assert len(counted.calls) < of_status and set(counted.calls) <= {"read", "read_from", "names", "names_of"}


@pytest.mark.parametrize("prefix", ["s3", "gcs"], indirect=True)
def test_in_a_bucket(prefix):
    step = ExecutorStep("some/step", spoken, {"out": this_output_path()})
    Executor(ExecutorFlags(prefix=prefix, backend="inline")).run([step])
    store = open_store(prefix)
    moment = WatchedLaunch(store, find_watched(store, None)).look()
    assert moment.status == "done" and [found.word for found in moment.steps] == ["ran"]
    assert log_end(store, moment.steps[0].log) == ["one", "three"]


@step_fn(kind="spoken")
def spoken(config):
    print("one\n\ntwo\rthree", flush=True)


def test_which_launch(launched):
    (launch,) = read_launches(launched.store)
    for text in (None, "script", launch.name[-6:], f"/elsewhere/{Path(launched.script).name}"):
        assert find_watched(launched.store, text) == launch
    with pytest.raises(UserError, match="no launch of other.py is recorded under"):
        find_watched(launched.store, "other.py")


def test_without_a_terminal_it_prints_once(launched, capsys):
    assert command.main(["watch", "--prefix", launched.prefix]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "some/" in line] == ["COMMITTED", "FAILED", "RUNNING", "ABSENT"]
    assert command.main(["watch", "--prefix", launched.prefix, "--json"]) == 0
    assert [item["state"] for item in json.loads(capsys.readouterr().out)][:2] == ["COMMITTED", "FAILED"]


class Terminal:
    """`marin-sft watch` in a pseudoterminal of its own."""

    def __init__(self, store, size=(24, 80)):
        self.ours, self.its = pty.openpty()
        fcntl.ioctl(self.its, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.before = termios.tcgetattr(self.its)
        code = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        code += "from marin_sft.run.command import main; sys.exit(main())"
        hidden = ("COLUMNS", "LINES", "NO_COLOR")
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        env |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "watch", "--prefix", store],
            stdin=self.its,
            stdout=self.its,
            stderr=self.its,
            env=env,
            start_new_session=True,
        )
        self.unread = b""

    def until(self, mark):
        while mark.encode() not in self.unread:
            assert select.select([self.ours], [], [], 60)[0], f"no {mark!r} in {self.unread[-2000:]!r}"
            self.unread += os.read(self.ours, 65536)
        found, _, self.unread = self.unread.partition(mark.encode())
        return found.decode(errors="replace")

    def press(self, keys):
        os.write(self.ours, keys.encode())

    def end(self, code):
        rest = self.until("\x1b[?1049l")  # our screen is left
        assert self.process.wait() == code
        os.set_blocking(self.ours, False)
        try:
            self.unread += os.read(self.ours, 65536)
        except BlockingIOError:
            pass
        assert termios.tcgetattr(self.its) == self.before
        assert "\x1b[?25h" in rest + self.unread.decode(), "the cursor is there again"
        return self.unread.decode()


def test_in_a_terminal(launched):
    terminal = Terminal(launched.prefix)
    terminal.until("\x1b[?1049h")
    terminal.until("3/10 steps")
    terminal.until("the log of going")
    terminal.press("\x1b[A")
    terminal.until("log of some/bad")
    terminal.until("the log of bad")
    fcntl.ioctl(terminal.its, termios.TIOCSWINSZ, struct.pack("HHHH", 9, 132, 0, 0))
    terminal.until("and 2 more: ")
    terminal.press("fl\x1a")  # Ctrl-Z does nothing
    terminal.until("told to fail")
    terminal.press("q")
    assert terminal.end(0).strip("\x1b[?25h0m\r\n") == ""


def test_each_frame_is_drawn_over_the_one_before(launched):
    terminal = Terminal(launched.prefix)
    terminal.until("\x1b[?1049h")
    terminal.until("3/10 steps")
    terminal.until("q quit")
    for _ in range(3):  # the clock makes a new frame each second
        _, home, frame = terminal.until("q quit").rpartition("\x1b[H")
        assert home and frame.count("\n") == 23, "from the first line, and to the last"
    terminal.press("q")
    terminal.end(0)


def test_a_frame_that_is_like_the_one_before_is_not_written():
    file = io.StringIO()
    canvas = Canvas(TextConsole(file=file, width=10, height=3, force_terminal=True))
    for text in ("one", "one", "two"):
        canvas.draw(Text(text))
    lines = ["one" + " " * 7, "two" + " " * 7]
    assert file.getvalue() == "".join(f"\x1b[H{line}\n{' ' * 10}\n{' ' * 10}" for line in lines)


@pytest.mark.parametrize("by", ["Ctrl-C", "SIGTERM"])
def test_interrupted(launched, by):
    terminal = Terminal(launched.prefix)
    terminal.until("3/10 steps")
    if by == "Ctrl-C":
        terminal.press("\x03")
    else:
        terminal.process.terminate()
    terminal.end(130)


def test_an_error_is_told_after_the_terminal_is_restored(launched, tmp_path):
    shutil.copytree(launched.prefix, tmp_path / "store")
    (begin,) = (tmp_path / "store" / "_runs").glob("*.begin.json")
    begin.with_name(begin.name.replace("begin", "end")).write_text("{")
    terminal = Terminal(str(tmp_path / "store"))
    text = terminal.end(2)
    assert "error: " in text and ".end.json: expected the JSON that marin_sft wrote there" in text.replace("\r\n", "")
