"""The section of a sweep: finished, half finished, and with a point that failed."""

import json
import re
from pathlib import Path

import pytest

from marin_sft.run.experiment import steps_of
from marin_sft.run.report.page import page
from tests.run.report.conftest import HOSTILE


def rows(contents):
    (sweep,) = contents["sweeps"]
    return sweep["made"], [(point["point"], point["value"], point["state"]) for point in sweep["points"]]


def test_a_finished_sweep(swept_launch):
    contents = swept_launch(rates=(0.1, 0.3))
    assert rows(contents) == (True, [("lr=0.3", 0.0, "ran"), ("lr=0.1", pytest.approx(0.2), "ran")])
    (sweep,) = contents["sweeps"]
    assert (sweep["metric"], sweep["direction"], sweep["settings"]) == ("loss", "min", ["lr", "text"])
    assert sweep["points"][0]["steps"][0].startswith("checkpoints/s/lr=0.3-") and contents["problems"] == []
    assert HOSTILE not in page(contents), "texts reach the page escaped"


def test_settings_stay_in_their_order(swept_launch):
    settings = {"zeta": 1, "alpha": 2}
    assert swept_launch(rates=(0.1,), settings=settings)["sweeps"][0]["settings"] == ["zeta", "alpha"]


def test_a_failed_point_leaves_the_figures_of_the_others(swept_launch, capsys):
    contents = swept_launch()
    said = " ".join(capsys.readouterr().out.split())
    assert "sweeps/s was not made: a point has failed" in said and "finished_only=True" in said
    made, found = rows(contents)
    assert not made and found[0] == ("lr=0.3", 0.0, "ran") and found[3] == ("lr=0.4", None, "failed")
    assert contents["problems"] == []
    assert rows(swept_launch(finished_only=True)) == (True, found)
    _, _, end = capsys.readouterr().out.partition("not finished")
    assert re.search(r"\ncheckpoints/s/lr=0.4 failed: [^§]*\nsweeps/s\n +loss \(min\) +lr +text\n1 +0 +0.3 ", end)
    assert " failed  0.4 " in end, "a failed launch ends with the table, since its script does not go on"


def test_a_sweep_that_has_not_ended_tells_what_is_left(swept_launch):
    made, found = rows(swept_launch(run_only=("lr=0.[12]",)))
    assert not made and [state for _, _, state in found[:2]] == ["ran", "ran"]


def test_what_a_launch_records_of_a_sweep_is_json(swept_launch, tmp_path):
    swept_launch(rates=(0.1,))
    (begin,) = (tmp_path / "store/_runs").glob("*.begin.json")
    (table,) = [step for step in json.loads(begin.read_text())["steps"] if "told" in step]
    assert table["told"]["runs"][0]["trained"] == "checkpoints/s/lr=0.1"


def test_names_of_points_are_paths_on_an_object_store(swept_launch, gcs):
    assert rows(swept_launch(rates=(0.1, 0.3), prefix="gs://bucket/sweeps"))[1][0] == ("lr=0.3", 0.0, "ran")


@pytest.mark.parametrize(("script", "table"), [("quickstart_sweep", "sweeps/"), ("evaluate_exports", "evaluation/")])
def test_the_table_of_an_experiment_file_is_found_without_a_variable_of_its_own(script, table, monkeypatch):
    root = Path(__file__).parents[3]
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root))
    names = [step.name for step in steps_of(f"experiments/{script}.py")]
    assert any(name.startswith(table) and name.endswith(("_sweep", "_exports")) for name in names)
