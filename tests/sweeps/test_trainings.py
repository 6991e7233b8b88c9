"""Sweeps of real trainings, inline: what finishes, what fails, and what goes on from where another has ended."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import transformers

from marin_sft import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
from marin_sft.errors import RunFailed
from marin_sft.steps import Between, Halving, OptunaSearch, sweep
from marin_sft.training.models.model_directory import ModelDirectory

DIVERGES = 1e30


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    store = str(tmp_path_factory.mktemp("sweeps") / "store")

    executor = Executor(ExecutorFlags(prefix=store, backend="inline"))

    def run(*steps):
        return executor.run(list(steps))

    run.output = lambda step: Path(executor.plan([step]).output_path(step))
    return run


def halved(parts, **changes):
    """A sweep of three points, one of which fails."""
    fields = {"metric": "validation/loss", "halving": Halving(rungs=(0.5, 1.0)), "finished_only": True, **changes}
    return sweep(parts.train(), {"learning_rate": [1e-3, 3e-3, DIVERGES]}, name="halved", **fields)


def test_the_better_half_goes_on_to_the_bits_of_an_undisturbed_training(parts, launch, capsys):
    found = halved(parts)
    assert list(found.trained) == ["lr=0.001", "lr=0.003", "lr=1e30", "rung2_1"]
    with pytest.raises(RunFailed):
        launch(found.table, found.best())
    table = json.loads((launch.output(found.table) / "sweep.json").read_text())
    assert [(p["point"], p["rung"]) for p in table["points"]] == [("lr=0.003", 1), ("lr=0.001", 0), ("lr=1e30", 0)]
    assert table["points"][2]["failed"] == ["lr=1e30"] and table["points"][2]["value"] is None
    text = (launch.output(found.table) / "table.txt").read_text()
    assert [line.split() for line in text.splitlines()][3] == ["failed", "1", "1e+30"]
    assert text in capsys.readouterr().out

    alone = parts.train(learning_rate=3e-3)
    launch(alone)
    whole, last = launch.output(alone), launch.output(found.trained["rung2_1"])
    weights = [dict(ModelDirectory(str(output / "model")).tensors()) for output in (whole, last)]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    rates_of = [[json.loads(line)["lr"] for line in (o / "metrics.jsonl").open()] for o in (whole, last)]
    assert rates_of[0] == rates_of[1] and len(rates_of[0]) == 6
    first = launch.output(found.trained["lr=0.003"])
    assert len((first / "metrics.jsonl").read_text().splitlines()) == 3
    assert [path.name for path in (first / "checkpoints").iterdir()] == ["step-3"]
    assert "going on from lr=0.003" in (last / ".log").read_text()

    best = launch.output(found.best())
    transformers.AutoModelForCausalLM.from_pretrained(best, local_files_only=True)
    assert "| learning_rate | 0.003 |" in (best / "README.md").read_text()


def test_a_failed_point_keeps_the_table_and_says_what_to_do(parts, launch, capsys):
    """All other trainings are those of the sweep above."""
    found = halved(parts, finished_only=False)
    with pytest.raises(RunFailed):
        launch(found.table)
    said = " ".join(capsys.readouterr().out.split())
    assert "sweeps/halved was not made: a point has failed" in said and "finished_only=True" in said
    assert launch.output(found.trained["lr=0.003"]).exists()


@step_fn(kind="digest_of_model")
def digest(config):
    score = zlib.crc32(Path(config["model"], "model.safetensors").read_bytes())
    Path(config["out"], "metrics.json").write_text(json.dumps({"score": score}))


def test_an_evaluation_of_each_point_decides(parts, launch):
    own = lambda name, model: ExecutorStep(name, digest, {"model": model, "out": this_output_path()})  # noqa: E731
    found = halved(parts, metric="own/score", direction="max", evaluations={"own": own})
    with pytest.raises(RunFailed):
        launch(found.table)
    table = json.loads((launch.output(found.table) / "sweep.json").read_text())
    points = table["points"]
    assert [point["rung"] for point in points] == [1, 0, 0] and points[2]["failed"] == ["lr=1e30"]
    scores = {}
    for run in ("lr=0.001", "lr=0.003"):
        (path,) = launch.output(found.table).parents[2].glob(f"halved/{run}_own-*/1/metrics.json")
        scores[run] = json.loads(path.read_text())["score"]
    assert points[0]["point"] == max(scores, key=scores.get)
    assert points[0]["figures"]["own/score"] == points[0]["value"]


def test_optuna_chooses_from_results_and_chooses_the_same_again(parts, launch):
    pytest.importorskip("optuna", reason="needs the extra `sweeps`")
    found = sweep(
        parts.train(num_train_steps=2),
        {"learning_rate": Between(1e-4, 1e-1, log=True), "lr_schedule": ["cosine", "linear"]},
        name="asked",
        metric="loss",
        search=OptunaSearch(points=3, at_once=2),
    )
    launch(found.table)
    points = json.loads((launch.output(found.table) / "sweep.json").read_text())["points"]
    assert len({point["point"] for point in points}) == 3
    assert all(1e-4 <= point["settings"]["learning_rate"] <= 1e-1 for point in points)
    assert [result.status for result in launch(found.table).results] == ["cached"] * len(launch(found.table).results)
