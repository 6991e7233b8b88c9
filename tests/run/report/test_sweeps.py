"""The section of a sweep: finished, half finished, and with a point that failed."""

import json
from dataclasses import dataclass

import pytest

from marin_sft.errors import RunFailed
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn
from marin_sft.execution.step import this_output_path, unversioned
from marin_sft.execution.stores import open_store
from marin_sft.run.report.command import report_contents
from marin_sft.run.report.page import page
from marin_sft.sweeps.step_configs import SweepTableConfig, SweptRunSpec
from marin_sft.training.metrics.metrics_log import MetricsLog
from tests.run.report.conftest import HOSTILE


@dataclass(frozen=True)
class SweptConfig:
    rate: float
    fails: object
    output_path: str = this_output_path()


@step_fn(kind="sft")
def swept(config: SweptConfig) -> None:
    log = MetricsLog(config.output_path, [])
    log.add({"step": 1, "loss": 9.0})
    if config.fails:
        raise ValueError(HOSTILE)
    log.add({"step": 2, "loss": abs(config.rate - 0.3), "tokens": 10})
    log.close({"training_seconds": 1.0})


@pytest.fixture
def launch(tmp_path):
    """Runs a sweep of these rates, of which 0.4 fails; returns its section."""

    def run(rates=(0.1, 0.2, 0.3, 0.4), finished_only=False, run_only=(), prefix=str(tmp_path / "store")):
        runs = []
        for rate in rates:
            step = ExecutorStep(f"checkpoints/s/lr={rate}", swept, SweptConfig(rate, unversioned(rate == 0.4)))
            used = step.optional() if finished_only else step
            runs.append(SweptRunSpec(point=f"lr={rate}", settings={"lr": rate, "text": HOSTILE}, trained=used))
        table = ExecutorStep("sweeps/s", config=SweepTableConfig(runs=tuple(runs), metric="loss", direction="min"))
        flags = ExecutorFlags(prefix=prefix, backend="inline", run_only=run_only)
        try:
            Executor(flags).run([table])
        except RunFailed:
            pass
        return report_contents(open_store(flags.prefix), [])

    return run


def rows(contents):
    (sweep,) = contents["sweeps"]
    return sweep["made"], [(point["point"], point["value"], point["state"]) for point in sweep["points"]]


def test_a_finished_sweep(launch):
    contents = launch(rates=(0.1, 0.3))
    assert rows(contents) == (True, [("lr=0.3", 0.0, "ran"), ("lr=0.1", pytest.approx(0.2), "ran")])
    (sweep,) = contents["sweeps"]
    assert (sweep["metric"], sweep["direction"], sweep["settings"]) == ("loss", "min", ["lr", "text"])
    assert sweep["points"][0]["steps"][0].startswith("checkpoints/s/lr=0.3-") and contents["problems"] == []
    assert HOSTILE not in page(contents), "texts reach the page escaped"


def test_a_failed_point_leaves_the_figures_of_the_others(launch):
    contents = launch()
    made, found = rows(contents)
    assert not made and found[0] == ("lr=0.3", 0.0, "ran") and found[3] == ("lr=0.4", None, "failed")
    assert contents["problems"] == []
    assert rows(launch(finished_only=True)) == (True, found)


def test_a_sweep_that_has_not_ended_tells_what_is_left(launch):
    made, found = rows(launch(run_only=("lr=0.[12]",)))
    assert not made and [state for _, _, state in found[:2]] == ["ran", "ran"]


def test_what_a_launch_records_of_a_sweep_is_json(launch, tmp_path):
    launch(rates=(0.1,))
    (begin,) = (tmp_path / "store/_runs").glob("*.begin.json")
    (table,) = [step for step in json.loads(begin.read_text())["steps"] if "told" in step]
    assert table["told"]["runs"][0]["trained"] == "checkpoints/s/lr=0.1"


def test_names_of_points_are_paths_on_an_object_store(launch, gcs):
    assert rows(launch(rates=(0.1, 0.3), prefix="gs://bucket/sweeps"))[1][0] == ("lr=0.3", 0.0, "ran")
