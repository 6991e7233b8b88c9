"""Lines of a growing log, each once, in order, with nothing lost at the end."""

import queue
import tracemalloc

from marin_sft.execution.live_output import LiveOutput
from marin_sft.execution.stores import open_store
from marin_sft.progress import Progress, is_text


def test_lines_come_while_the_log_grows(tmp_path):
    shown: queue.Queue[tuple[str, str]] = queue.Queue()
    with LiveOutput(open_store(str(tmp_path)), lambda *line: shown.put(line)) as output:
        output.follow("a", str(tmp_path / ".log"))
        with open(tmp_path / ".log", "w", buffering=1) as log:  # made after it is followed
            log.write("one\nt")
            assert shown.get(timeout=10) == ("a", "one")
            log.write("wo \u00e9\n\n 10%\r 50%\r100%\r\nno end")
            assert [shown.get(timeout=10) for _ in range(2)] == [("a", "two \u00e9"), ("a", "100%")]
        output.stop("a")
        assert shown.get_nowait() == ("a", "no end")
        output.stop("a")
    assert shown.empty()


def test_what_is_left_is_shown_at_the_end_and_a_new_attempt_starts_afresh(tmp_path):
    shown: list[tuple[str, str]] = []
    for attempt in ("1", "2"):
        (tmp_path / attempt).write_text(f"of attempt {attempt}\n")
    with LiveOutput(open_store(str(tmp_path)), lambda *line: shown.append(line)) as output:
        output.follow("a", str(tmp_path / "1"))
        output.follow("a", str(tmp_path / "2"))
    assert shown == [("a", "of attempt 1"), ("a", "of attempt 2")]


def test_on_an_object_store_a_log_is_shown_when_it_is_there():
    store = open_store("memory://live_output")
    shown: list[tuple[str, str]] = []
    with LiveOutput(store, lambda *line: shown.append(line)) as output:
        output.follow("a", store.path("s/1/.log"))
        output.follow("never_started", store.path("t/1/.log"))
        store.replace(store.path("s/1/.log"), b"one\ntwo\n")
    assert shown == [("a", "one"), ("a", "two")]


def test_progress_is_told_from_output():
    texts = [
        Progress(120, 400, "steps", {"loss": 1.3214, "tokens_per_second": 5100.2}),
        Progress(3, None, "rows"),
        Progress(0, 9, ""),
    ]
    assert all(is_text(progress.text()) for progress in texts)
    assert not any(map(is_text, ["hello", "epoch 3", "Traceback (most recent call last):", "", "3 rows were dropped"]))


def test_of_a_flood_the_newest_lines_are_shown_and_the_rest_is_counted(tmp_path):
    """32 MB in far less memory."""
    shown: list[str] = []
    log = tmp_path / ".log"
    with open(log, "w") as file:
        file.writelines(f"{i} {'x' * 1000}\n" for i in range(32_000))
    output = LiveOutput(open_store(str(tmp_path)), lambda name, line: shown.append(line))
    tracemalloc.start()
    output.follow("a", str(log))
    output.stop("a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    left_out = 32_000 - (len(shown) - 1)
    assert shown[0] == f"... {left_out:,} lines omitted; all are in {log}"
    assert [line.split()[0] for line in shown[1:]] == [str(i) for i in range(left_out, 32_000)]
    assert 20 <= len(shown) <= 1001 and peak < 8e6


def test_a_line_without_an_end_is_cut_short(tmp_path):
    shown: list[str] = []
    log = tmp_path / ".log"
    log.write_bytes(b"y" * 5_000_000 + b"\n" + b"".join(b"%d%%\r" % i for i in range(2_000_000)) + b"\nend\n")
    output = LiveOutput(open_store(str(tmp_path)), lambda name, line: shown.append(line))
    output.follow("a", str(log))
    output.stop("a")
    assert shown == [f"{'y' * 4000}... (cut short)", "1999999%", "end"]


def test_logs_share_the_lines_that_are_shown(tmp_path):
    shown: list[tuple[str, str]] = []
    output = LiveOutput(open_store(str(tmp_path)), lambda *line: shown.append(line))
    for name in "abcd":
        (tmp_path / name).write_text("".join(f"{i}\n" for i in range(5000)))
        output.follow(name, str(tmp_path / name))
    for name, most in zip("abcd", (250, 333, 500, 1000), strict=True):  # as others are followed no longer
        output.stop(name)
        of_this = [line for of, line in shown if of == name]
        assert of_this[0] == f"... {5000 - most:,} lines omitted; all are in {tmp_path / name}"
        assert of_this[1:] == [str(i) for i in range(5000 - most, 5000)]
