from marin_sft.execution.live_line import LiveLine, clock_text
from marin_sft.progress import Progress

NAME = "reference_logprobs/exclaimed_quickstart"


def steps(done: float, **metrics: float) -> Progress:
    return Progress(done, 100, "steps", metrics)


def text(line: LiveLine, width: int, now: float) -> str:
    shown = str(line.text(width, now))
    assert len(shown) <= width
    return shown


def test_queued_compiling_then_the_time_that_is_left():
    line = LiveLine("a", submitted=0.0)
    assert text(line, 80, 12.0) == "a  queued 0:12"
    line.claimed = 20.0
    assert text(line, 80, 23.0) == "a  running 0:03"
    line.hear(Progress(0, 100, "steps", {}, 0, "compiling"), 25.0)
    shown = text(line, 80, 85.0)
    assert "0/100 steps  compiling  1:05 so far" in shown and "left" not in shown
    line.hear(steps(1, loss=5.0), 90.0)
    assert "1/100 steps  loss 5  1:10 so far" in text(line, 80, 90.0)  # one point has no speed
    line.hear(steps(11, loss=4.0), 100.0)
    assert text(line, 80, 100.0).endswith("11/100 steps  loss 4  1:29 left")  # compiling does not count
    assert text(line, 80, 110.0).endswith("1:19 left")


def test_another_unit_has_a_speed_of_its_own():
    line = LiveLine("a", 0.0, claimed=0.0)
    line.hear(Progress(0, 1000, "train rows"), 0.0)
    line.hear(Progress(1000, 1000, "train rows"), 1.0)
    line.hear(Progress(0, 10, "validation rows"), 1.0)
    line.hear(Progress(5, 10, "validation rows"), 11.0)
    assert text(line, 80, 11.0).endswith("5/10 validation rows  0:10 left")


def test_what_matters_stays_at_any_width():
    line = LiveLine(NAME, 0.0, claimed=0.0)
    figures = {"loss": 0.4441, "tokens_per_second": 11112.0, "mfu": 0.31}
    line.hear(steps(1, **figures), 0.0)
    line.hear(steps(11, **figures), 10.0)
    for width in (60, 80, 100, 140):
        shown = text(line, width, 10.0)
        assert "11/100 steps  loss 0.4441  " in shown and shown.endswith("1:29 left") and "quickstart  " in shown
    assert NAME in text(line, 80, 10.0) and "tokens/s" not in text(line, 80, 10.0)
    assert "tokens/s 11,112  mfu 0.31" in text(line, 140, 10.0) and "━" in text(line, 140, 10.0)
    assert text(line, 60, 10.0).startswith("...")


def test_without_a_total_there_is_no_time_left():
    line = LiveLine("a", 0.0, claimed=0.0)
    line.hear(Progress(10, None, "rows"), 1.0)
    line.hear(Progress(20, None, "rows"), 2.0)
    assert text(line, 80, 3.0) == "a  20 rows  0:03 so far"
    assert clock_text(3723.4) == "1:02:03"
