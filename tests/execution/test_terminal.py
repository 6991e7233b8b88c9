"""Whatever users, models and hubs write is shown, and neither ends a launch nor reaches the terminal as a command."""

import io
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from marin_sft.execution.claims import take_claim, write_beat
from marin_sft.execution.console import TextConsole
from marin_sft.execution.live_view import LiveView
from marin_sft.execution.results import StepResult
from marin_sft.execution.stores import open_store
from marin_sft.execution.terminal import complain, visible, without_colours, write_log
from tests.execution.test_gc import run, step

ROOT = Path(__file__).parents[2]
MARKUP = "{{ '[INST] ' + x + ' [/INST]' }}[/red][bold]\\["
CONTROLS = "\x1b[2J\x1b]0;title\x07\x9b31m\x00\b\r\u202e\udc80"
HARMFUL = ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\x00", "\b", "\u202e")


def on_a_terminal(*command, cwd=ROOT, **environment):
    """Exit code and output of a process whose stdout and stderr are a terminal."""
    ours, its = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "PYTHONPATH": str(ROOT), **environment}
    with subprocess.Popen(command, cwd=cwd, env=env, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        found = b""
        try:
            while chunk := os.read(ours, 65536):
                found += chunk
        except OSError:  # what Linux answers when the other end is closed
            pass
    os.close(ours)
    return process.returncode, found.decode(errors="replace")


SCRIPT = """
import json, os
from pathlib import Path
from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path

@step_fn(kind="hostile")
def hostile(config):
    Path(config["out"], "metrics.json").write_text(json.dumps({json.loads(os.environ["TEXT"]): 1}))
    if config["fails"]:
        raise ValueError(json.loads(os.environ["TEXT"]))

config = {"text": json.loads(os.environ["TEXT"]), "fails": "FAILS" in os.environ, "out": this_output_path()}
executor_main(steps=[ExecutorStep("hostile", hostile, config)])
"""


def test_a_launch_on_a_terminal(tmp_path):
    """The plan with a changed value, figures, a failure, and what `marin-sft` says of them afterwards."""
    (tmp_path / "script.py").write_text(SCRIPT)
    store = ("--prefix", str(tmp_path / "[/store]"))

    def launch(text, *flags, **env):
        command = (sys.executable, "script.py", *store, "--backend", "inline", *flags)
        return on_a_terminal(*command, cwd=tmp_path, TEXT=json.dumps(text), **env)

    ask = (sys.executable, "-m", "marin_sft.run.command")
    results = [
        launch(MARKUP),
        launch("x" + MARKUP, "--dry_run"),
        launch(CONTROLS),
        launch(MARKUP + CONTROLS, FAILS="1"),
        launch(CONTROLS + MARKUP, "--force_run", "[/bold]", FAILS="1"),
        *(on_a_terminal(*ask, *words, *store) for words in (["status"], ["why", "hostile"], ["runs"], ["gc"])),
        on_a_terminal(*ask, "why", MARKUP + "\x1b[2J", *store),
    ]
    assert [code for code, _ in results] == [0, 0, 0, 1, 2, 0, 0, 0, 0, 2], "\n".join(text for _, text in results)
    for _, text in results:
        assert not [word for word in HARMFUL if word in text], text
    assert all("[/store]" in "".join(text.split()) for _, text in results[:4])
    assert "[/INST]" in results[1][1] and r"\x1b]0;title" in results[2][1]
    assert r"\x1b[2J" in results[-1][1]


@pytest.mark.parametrize(
    "content, shown",
    [
        (b"[1, 2]", "metrics.json is not an object"),
        (b"3", "metrics.json is not an object"),
        (b"null", "metrics.json is not an object"),
        (b"", ""),
        (b"not json", "metrics.json cannot be read"),
        (b"\xff\xfe\x00\xd8", "metrics.json cannot be read"),
        (b"[" * 100_000, "metrics.json cannot be read"),
        (b'{"a": ' * 100_000, "metrics.json cannot be read"),
        (b'{"n": 1' + b"0" * 5000 + b"}", "metrics.json cannot be read"),
        (b'{"n": 1' + b"0" * 400 + b"}", "n huge"),
        (b'{"n": 1' + b"0" * 200 + b"}", "n 1e+200"),
        (b'{"a": 1e999, "b": -1e999, "c": NaN}', "a inf, b -inf, c nan"),
        (b'{"a": {"b": 1}, "c": [2], "d": true, "e": "f"}', ""),
        (json.dumps({f"k{i}": i for i in range(500)}).encode(), "k0 0, k1 1, k2 2"),
        (json.dumps({"a\n b" + "c" * 100: 1}).encode(), f"a b{'c' * 37}... 1"),
        (b'{"a": 1}' + b" " * (1 << 20), "metrics.json is too large to show"),
    ],
    ids=str,
)
def test_any_metrics_json(tmp_path, capsys, content, shown):
    a = step("a")
    output = run(tmp_path, a).output_path(a)
    Path(output, "metrics.json").write_bytes(content)
    capsys.readouterr()
    run(tmp_path, a)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("a ") and "cached" in line)
    assert " ".join(line.split()) == " ".join(f"a cached {shown} {Path(output).relative_to(tmp_path)}".split())


def test_metrics_json_may_be_a_folder(tmp_path, capsys):
    a = step("a")
    Path(run(tmp_path, a).output_path(a), "metrics.json").mkdir()
    run(tmp_path, a)
    assert "metrics.json cannot be read" in capsys.readouterr().out


@pytest.fixture
def live(tmp_path):
    """A step that runs elsewhere, and a view of it on a terminal, or on `file`."""
    store = open_store(str(tmp_path))
    claim = take_claim(store, "a-0123456789", 1, 1, "f")
    output = Path(store.path("a-0123456789/1"))
    output.mkdir()
    item = SimpleNamespace(node=SimpleNamespace(name="a", directory="a-0123456789"))

    def view(file, terminal=True):
        colours = "standard" if terminal else None
        console = TextConsole(file=file, force_terminal=terminal, width=100, color_system=colours)
        return LiveView(console, store, elsewhere=True)

    return SimpleNamespace(store=store, claim=claim, log=output / ".log", item=item, view=view)


def test_live_output_on_a_terminal(live):
    """What a step prints, and what it calls its progress."""
    live.log.write_text(f"{MARKUP}\n{CONTROLS.replace(chr(0xDC80), '')}\n\x1b[31mred\x1b[0m\n")
    news = {"done": 1, "total": 2, "unit": MARKUP, "metrics": {MARKUP + CONTROLS: 1.5, "[/x]": "no number"}}
    write_beat(live.store, "a-0123456789", live.claim, 1, news)
    screen = io.StringIO()
    with live.view(screen) as view:
        view.started(live.item, 1)
        view.finished(StepResult(live.item, "ran"))
    text = screen.getvalue()
    assert "[/INST]" in text and "\x1b[31mred" in text
    assert not [word for word in HARMFUL if word in text], text


def test_progress_with_markup_is_shown_on_its_bar(live):
    screen = io.StringIO()
    shown = threading.Event()

    class Screen(io.StringIO):
        def write(self, text):
            if "[/INST]" in text:
                shown.set()
            return super().write(text)

    screen = Screen()
    news = {"done": 1, "total": 2, "unit": "[/INST]", "metrics": {"[/x]": 1.5}}
    write_beat(live.store, "a-0123456789", live.claim, 1, news)
    with live.view(screen) as view:
        view.started(live.item, 1)
        assert shown.wait(timeout=30)
        view.finished(StepResult(live.item, "ran"))


def test_the_scheduler_does_not_wait_for_the_screen(live):
    """The screen stands still until the step has ended, as far as the scheduler is concerned."""
    go_on = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text):
            assert go_on.wait(timeout=60)
            return super().write(text)

    screen = Stuck()
    with live.view(screen, terminal=False) as view:
        view.started(live.item, 1)
        live.log.write_text("first\nlast\n")
        view.finished(StepResult(live.item, "ran"))
        go_on.set()
    assert [line.split()[-1] for line in screen.getvalue().splitlines()] == ["a", "first", "last", "a"]


def test_a_step_is_said_to_begin_when_it_has_begun(live, monkeypatch):
    """Until its attempt has a claim it is queued, which is said after a while."""
    from marin_sft.execution import live_view

    monkeypatch.setattr(live_view, "_QUEUED_SECONDS", 0.0)
    claims = Path(live.store.path("a-0123456789/claims"))
    claims.rename(claims.with_name("later"))
    said = {word: threading.Event() for word in ("queued", "start")}

    class Screen(io.StringIO):
        def write(self, text):
            for word, event in said.items():
                if word in text:
                    event.set()
            return super().write(text)

    screen = Screen()
    with live.view(screen, terminal=False) as view:
        view.started(live.item, 1)
        assert said["queued"].wait(timeout=30) and not said["start"].is_set()
        claims.with_name("later").rename(claims)
        assert said["start"].wait(timeout=30)
        view.finished(StepResult(live.item, "ran"))
    assert [line.split()[1] for line in screen.getvalue().splitlines()] == ["queued", "start", "ran"]


def test_what_goes_wrong_in_telling_is_not_lost(live):
    class Closed(io.StringIO):
        def write(self, text):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), live.view(Closed(), terminal=False) as view:
        view.started(live.item, 1)
        view.finished(StepResult(live.item, "ran"))  # a step that is only submitted is not said to have begun


def test_visible():
    assert visible("plain, \u00e9 \U0001f600 \u200d\n\tx") == "plain, \u00e9 \U0001f600 \u200d\n\tx"
    assert visible("\x1b[2J\r\x7f\x9b\u202e\udc80") == r"\x1b[2J\r\x7f\x9b\u202e\udc80"


def test_colours_of_libraries_are_taken_out():
    assert without_colours("\x1b[36mray::bad/kbd()\x1b[39m (pid=1)") == "ray::bad/kbd() (pid=1)"


def test_errors_are_visible(capsys):
    assert complain(ValueError("\x1b[2J[/x]"), 2) == 2
    assert capsys.readouterr().err == "error: \\x1b[2J[/x]\n"


def test_a_console_of_another_encoding():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    TextConsole(file=file, width=80).print("\u00e9[/x]")
    file.flush()
    assert file.buffer.getvalue() == b"\\xe9[/x]\n"


def test_a_log_on_a_terminal_keeps_its_colours_only(tmp_path):
    """In pieces that cut sequences and characters in two."""
    log = "\x1b[1;31mred\x1b[0m \u00e9\n10%\r20%\x1b[2J\x1b]0;t\x07\u009b\u202e\nend \x1b[32m\u00e9".encode()
    (tmp_path / "log").write_bytes(log)
    program = (
        "from marin_sft.execution.terminal import write_log\n"
        "data = open('log', 'rb').read()\n"
        "write_log(data[i : i + 1] for i in range(len(data)))"
    )
    code, text = on_a_terminal(sys.executable, "-c", program, cwd=tmp_path)
    assert code == 0
    shown = "\x1b[1;31mred\x1b[0m \u00e9\r\n10%\r20%\\x1b[2J\\x1b]0;t\\x07\\x9b\\u202e\r\nend \x1b[32m\u00e9"
    assert text == shown


def test_a_log_elsewhere_is_written_as_it_is(capfdbinary):
    write_log([b"\x1b[2J", b"\xff\n"])
    assert capfdbinary.readouterr().out == b"\x1b[2J\xff\n"


@pytest.mark.parametrize("flags", [["--dry_run"], ["--dry_run", "--json"], []])
def test_who_reads_may_stop_early(tmp_path, flags):
    """As in `| head`: no traceback, and a launch goes on."""
    (tmp_path / "script.py").write_text(SCRIPT)
    ours, its = os.pipe()
    os.close(ours)
    command = [sys.executable, "script.py", "--prefix", str(tmp_path / "store"), "--backend", "inline", *flags]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TEXT": '"x"'}
    done = subprocess.run(command, cwd=tmp_path, env=env, stdout=its, stderr=subprocess.PIPE, text=True)
    os.close(its)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(list(tmp_path.glob("store/hostile-*/commits/*.json"))) == (not flags)
