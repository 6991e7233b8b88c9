import json

import psutil
import pytest

from marin_sft import progress
from marin_sft.training.metrics.memory import GIB, MemoryWatch
from marin_sft.training.metrics.progress_bar import ProgressBar, rounded

STEPS = [
    {"step": 3, "loss": 1.23456, "lr": 1.23456e-5, "tokens": 512, "tokens_per_second": 100.0, "mfu": None},
    {
        "step": 6,
        "loss": 0.98765,
        "lr": 1.0e-5,
        "tokens": 1024,
        "tokens_per_second": 200.0,
        "pairs_per_second": 4.0,
        "mfu": None,
    },
]


def shown(style, **who):
    reports = []
    bar = ProgressBar(style, 6, **who)
    with progress.listening(reports.append):
        for metrics in STEPS:
            bar.update(metrics)
    bar.close()
    return [(report.done, report.total, report.metrics) for report in reports]


REPORTS = [
    (3, 6, {"loss": 1.23456, "tokens_per_second": 100.0}),
    (6, 6, {"loss": 0.98765, "tokens_per_second": 200.0, "pairs_per_second": 4.0}),
]


def test_json_is_a_line_of_rounded_figures_for_each_step(capsys):
    assert shown("json") == REPORTS
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {**STEPS[0], "loss": 1.235} == rounded(STEPS[0])
    assert (second["loss"], second["lr"]) == (0.988, 1.0e-5)


def test_tqdm_counts_to_the_last_step(capsys):
    assert shown("tqdm") == REPORTS
    told = capsys.readouterr().err.split("\r")[-1]
    assert "6/6" in told and "loss=0.9877" in told


@pytest.mark.parametrize(("style", "reports"), [("rich", REPORTS), ("none", [])])
def test_rich_leaves_it_to_the_launch_and_none_says_nothing(capsys, style, reports):
    assert shown(style) == reports
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("style", ["json", "tqdm"])
def test_one_process_of_a_job_prints(capsys, style):
    shown(style, shows=False)
    assert capsys.readouterr() == ("", "")


def test_mfu_is_reported_where_it_is_known():
    reports = []
    with progress.listening(reports.append):
        ProgressBar("rich", 6).update({"step": 1, "mfu": 0.57, "grad_norm": 2.0})
    assert [report.metrics for report in reports] == [{"mfu": 0.57}]
    assert reports[0].aside == {"step": 1, "mfu": 0.57, "grad_norm": 2.0}, "for metrics of Ray"


def test_peak_memory_is_told_at_most_so_often():
    held = psutil.Process().memory_info().rss
    peak = MemoryWatch(0.0).figures()["memory/host_peak_gib"] * GIB
    assert 0.95 * held <= peak < psutil.virtual_memory().total  # the kernel counts in batches
    seldom = MemoryWatch(3600.0)
    assert seldom.figures() and not seldom.figures()
