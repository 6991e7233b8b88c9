import numpy as np

from marin_sft import progress
from marin_sft.progress import Progress


def test_compiling_is_said_with_the_count():
    heard = []
    with progress.listening(heard.append):
        progress.kept(2)
        progress.compiling(3, 9, "steps")
    assert heard == [Progress(3, 9, "steps", {}, 2, "compiling")]
    assert heard[0].text() == "3/9 steps  compiling" and progress.is_text(heard[0].text())
    assert not progress.is_text("3/9 steps  compilingx")


def test_what_is_told_aside_goes_with_the_next_reports_but_is_not_in_their_lines():
    heard = []
    with progress.listening(heard.append):
        progress.aside({"tokens": 10, "validation/loss": 2.0})
        progress.report(1, 2, "steps", loss=1.5)
        progress.aside({"tokens": 20})
        progress.report(2, 2, "steps", loss=1.4)
    assert [news.aside for news in heard] == [{"tokens": n, "validation/loss": 2.0} for n in (10, 20)]
    assert heard[1].text() == "2/2 steps  loss 1.4"


def test_reports_reach_the_listener_and_nobody_else():
    heard = []
    progress.report(1, 2)
    with progress.listening(heard.append):
        progress.report(120, 400, "steps", loss=1.3201, tokens_per_second=5100.4)
        progress.report(3)
    progress.report(4)
    assert [news.text() for news in heard] == ["120/400 steps  loss 1.32  tokens/s 5,100", "3"]


def test_all_listeners_of_a_block_hear_a_report_and_none_of_the_block_around_it():
    outer, one, other = [], [], []
    with progress.listening(outer.append):
        with progress.listening(one.append, other.append):
            progress.report(1)
        progress.report(2)
    assert [[news.done for news in heard] for heard in (outer, one, other)] == [[2], [1], [1]]


def test_a_figure_that_is_no_number_is_shown_as_it_is():
    assert Progress(1, 2, "steps", {"loss": np.float32(1.5), "odd": "word"}).text() == "1/2 steps  loss 1.5  odd word"
