"""Metrics as curves: all of a small log, a part of a large one, thinned without losing a spike."""

import json
import random

from marin_sft.execution.stores import open_store
from marin_sft.run.report import curves
from marin_sft.run.report.curves import read_lines, thinned, training_seconds


def written(tmp_path, lines, end=""):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return open_store(str(tmp_path)), str(path)


def test_a_torn_last_line_is_left_out(tmp_path):
    read = read_lines(*written(tmp_path, [{"step": 1, "loss": 1.0}], '{"step": 2, "lo'))
    assert [line["step"] for line in read.lines] == [1] and read.whole


def test_of_a_large_log_lines_from_all_over_it(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "_WHOLE", 10_000)
    monkeypatch.setattr(curves, "_BLOCK", 400)
    monkeypatch.setattr(curves, "_BLOCKS", 16)
    store, path = written(tmp_path, [{"step": step, "loss": 1 / (step + 1)} for step in range(5000)])
    read = read_lines(store, path)
    steps = [line["step"] for line in read.lines]
    assert not read.whole and steps == sorted(steps) and len(steps) < 500
    assert steps[0] == 0 and steps[-1] == 4999
    assert max(b - a for a, b in zip(steps, steps[1:], strict=False)) < 5000 / 14


def test_thinned_keeps_ends_and_extremes():
    values = [random.Random(0).random() for _ in range(10_000)]
    values[4321], values[777] = 9.0, -9.0
    kept = thinned(range(10_000), values, 100)
    assert len(kept) <= 100 and kept == sorted(kept)
    assert {0, 777, 4321, 9999} <= set(kept)
    assert thinned(range(5), values, 100) == [0, 1, 2, 3, 4]


def test_seconds_of_training_follow_from_tokens_and_speeds():
    lines = [{"tokens": 100, "tokens_per_second": 50.0}, {"tokens": 400, "tokens_per_second": 100.0}]
    assert training_seconds(lines) == [2.0, 5.0]
    assert training_seconds([*lines, {"tokens": 500}]) == [None] * 3
