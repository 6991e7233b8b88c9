"""Sweeps of real trainings, inline: what finishes, what fails, and what goes on from where another has ended."""

import json
from pathlib import Path

import numpy as np
import pytest
import transformers

from marin_sft import Executor, ExecutorFlags
from marin_sft.errors import RunFailed
from marin_sft.steps import Between, Halving, OptunaSearch, evaluate, sweep
from marin_sft.training.models.model_directory import ModelDirectory

DIVERGES = 1e30


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    store = str(tmp_path_factory.mktemp("sweeps") / "store")

    def run(*steps, json=False):
        return Executor(ExecutorFlags(prefix=store, backend="inline", json=json)).run(list(steps))

    run.output = lambda step: Path(run_of(step).output_path(step))
    run_of = lambda step: Executor(ExecutorFlags(prefix=store, backend="inline")).plan([step])  # noqa: E731
    return run


def test_the_better_half_goes_on_to_the_bits_of_an_undisturbed_training(parts, launch, capsys):
    rates = [1e-3, 3e-3, DIVERGES]
    found = sweep(
        parts.train(),
        {"learning_rate": rates},
        name="halved",
        metric="validation/loss",
        halving=Halving(rungs=(0.5, 1.0)),
        finished_only=True,
    )
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
    whole, halved = launch.output(alone), launch.output(found.trained["rung2_1"])
    weights = [dict(ModelDirectory(str(output / "model")).tensors()) for output in (whole, halved)]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    rates_of = [[json.loads(line)["lr"] for line in (o / "metrics.jsonl").open()] for o in (whole, halved)]
    assert rates_of[0] == rates_of[1] and len(rates_of[0]) == 6
    first = launch.output(found.trained["lr=0.003"])
    assert len((first / "metrics.jsonl").read_text().splitlines()) == 3
    assert [path.name for path in (first / "checkpoints").iterdir()] == ["step-3"]
    assert "going on from lr=0.003" in (halved / ".log").read_text()

    best = launch.output(found.best())
    transformers.AutoModelForCausalLM.from_pretrained(best, local_files_only=True)
    assert "| learning_rate | 0.003 |" in (best / "README.md").read_text()


def test_a_failed_point_keeps_the_table_and_says_what_to_do(parts, launch, capsys):
    found = sweep(parts.train(), {"learning_rate": [DIVERGES, 5e-3]}, name="strict", metric="loss")
    with pytest.raises(RunFailed):
        launch(found.table)
    said = capsys.readouterr().out
    assert launch.output(found.trained["lr=0.005"]).exists(), "the others are trained"
    assert "finished_only=True" in said and "sweeps/strict" in said
    rest = sweep(parts.train(), {"learning_rate": [5e-3]}, name="strict", metric="loss")
    run = launch(rest.table)
    assert {result.item.node.name: result.status for result in run.results}["checkpoints/strict/lr=0.005"] == "cached"


def test_an_evaluation_decides(parts, launch):
    def answers(name, model):
        return evaluate(name, model, {"held_out": parts.rows}, max_new_tokens=4, max_prompts=8)

    found = sweep(
        parts.train(num_train_steps=2),
        {"learning_rate": [1e-9, 0.05]},
        name="scored",
        metric="answers/exact_match",
        evaluations={"answers": answers},
    )
    launch(found.table, found.best("loss"))
    table = json.loads((launch.output(found.table) / "sweep.json").read_text())
    assert table["direction"] == "max" and "answers/exact_match" in table["points"][0]["figures"]
    assert json.loads((launch.output(found.best("loss")) / "metrics.json").read_text())["loss"] > 0


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
