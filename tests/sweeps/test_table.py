"""The table of a sweep from the outputs of its trainings, here written by hand."""

import json
from pathlib import Path

import pytest

from marin_sft.errors import DataError
from marin_sft.sweeps.figures import best_of, results_of
from marin_sft.sweeps.step_configs import SweepTableConfig, SweptRunSpec
from marin_sft.sweeps.table import sweep_table


@pytest.fixture
def trained(tmp_path):
    """Writes the output of a training with these figures in its last line, and makes its place in a sweep."""

    def write(point, *, scores=None, settings=None, **figures):
        output = tmp_path / f"{point}{figures.get('seed', '')}{figures.get('rung', '')}"
        output.mkdir()
        place = {name: figures.pop(name) for name in ("seed", "rung") if name in figures}
        (output / "metrics.jsonl").write_text(
            json.dumps({"step": 1}) + "\n" + json.dumps({"step": 2, **figures}) + "\n"
        )
        (output / "metrics.json").write_text(json.dumps({"training_seconds": 3.0}))
        evaluations = {}
        if scores is not None:
            (output / "scores").mkdir()
            (output / "scores/metrics.json").write_text(json.dumps(scores))
            evaluations = {"answers": str(output / "scores")}
        settings = {"lr": float(point)} if settings is None else settings
        return SweptRunSpec(point=point, settings=settings, trained=str(output), evaluations=evaluations, **place)

    return write


def lost(point, **place):
    return SweptRunSpec(point=point, settings={"lr": float(point)}, trained=None, **place)


def table(tmp_path, *runs, metric="loss", direction="min", **options):
    sweep_table(
        SweepTableConfig(runs=runs, metric=metric, direction=direction, output_path=str(tmp_path / "table"), **options)
    )
    found = json.loads((tmp_path / "table/sweep.json").read_text())
    return [(point["point"], point["value"]) for point in found["points"]], found


def test_the_best_is_first_and_what_has_no_figure_last(tmp_path, trained, capsys):
    runs = [trained("1", loss=3.0), lost("2"), trained("3", loss=1.0), trained("4", loss=float("nan"))]
    order, found = table(tmp_path, *runs)
    assert order == [("3", 1.0), ("1", 3.0), ("2", None), ("4", None)]
    assert found["settings"] == ["lr"] and found["points"][0]["figures"]["training_seconds"] == 3.0
    metrics = json.loads((tmp_path / "table/metrics.json").read_text())
    assert metrics == {"loss": 1.0, "points": 4, "finished": 2}
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["loss", "(min)", "lr"], ["1", "1", "3"], ["2", "3", "1"], ["failed", "2"], ["not", "finite", "4"]
    ]  # fmt: skip


def test_the_direction_counts_and_equal_points_keep_their_order(tmp_path, trained):
    runs = [trained(p, scores={"acc": a}) for p, a in (("1", 0.5), ("2", 0.75), ("3", 0.75))]
    assert [name for name, _ in table(tmp_path, *runs, metric="answers/acc", direction="max")[0]] == ["2", "3", "1"]


def test_seeds_become_a_mean_and_a_spread(tmp_path, trained):
    runs = [trained("1", loss=loss, seed=seed) for seed, loss in enumerate((1.0, 2.0, 6.0))]
    runs += [trained("2", loss=2.0, seed=0), lost("2", seed=1)]
    order, found = table(tmp_path, *runs)
    assert order == [("1", 3.0), ("2", None)], "without one of its seeds a point has no mean"
    first = found["points"][0]
    assert first["spread"] == pytest.approx(7**0.5), "the standard deviation of a sample"
    assert first["values"] == {"1_seed=0": 1.0, "1_seed=1": 2.0, "1_seed=2": 6.0}
    assert found["points"][1]["failed"] == ["2_seed=1"]


def test_a_point_stands_in_the_row_of_its_last_rung_before_those_that_stayed(tmp_path, trained):
    runs = [trained("1", loss=1.0), trained("2", loss=2.0), trained("3", loss=3.0)]
    slot = trained("rung2_1", settings={}, rung=1, loss=2.5)
    Path(slot.trained, "choice.json").write_text(json.dumps({"point": "2", "settings": {"lr": 2.0}}))
    failed = SweptRunSpec(point="rung2_2", rung=1, trained=None)
    order, found = table(tmp_path, *runs, slot, failed)
    assert order == [("2", 2.5), ("1", 1.0), ("3", 3.0)]
    assert [point["rung"] for point in found["points"]] == [1, 0, 0]


def test_the_promoted_are_listed_with_where_to_go_on_from(tmp_path, trained):
    runs = [trained("1", loss=1.0), lost("2"), trained("3", loss=0.5)]
    table(tmp_path, *runs, promoted=3)
    chosen = json.loads((tmp_path / "table/chosen.json").read_text())
    assert chosen == [{"point": p, "settings": {"lr": float(p)}, "from": p} for p in ("3", "1")]


def test_what_was_not_measured_is_named(tmp_path, trained):
    with pytest.raises(DataError, match="'1' has no such figure; did you mean 'loss'"):
        table(tmp_path, trained("1", loss=1.0), metric="losss")
    with pytest.raises(DataError, match="no point of 2 has a finite loss; 2 failed: look at their logs"):
        table(tmp_path, lost("1"), lost("2"))


def test_another_figure_has_another_best(trained):
    results = results_of([trained("1", loss=1.0, kl=5.0), trained("2", loss=2.0, kl=3.0)])
    assert [best_of(results, metric, "min")[0].point for metric in ("loss", "kl")] == ["1", "2"]
