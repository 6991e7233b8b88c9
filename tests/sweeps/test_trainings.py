"""Sweeps of real trainings, inline: what goes on from where another has ended, and what is chosen from results."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import transformers

from marin_sft import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
from marin_sft.steps import Between, Halving, OptunaSearch, sweep
from marin_sft.training.models.model_directory import ModelDirectory


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    store = str(tmp_path_factory.mktemp("sweeps") / "store")

    executor = Executor(ExecutorFlags(prefix=store, backend="inline"))

    def run(*steps):
        return executor.run(list(steps))

    run.output = lambda step: Path(executor.plan([step]).output_path(step))
    return run


@step_fn(kind="digest_of_model")
def digest(config):
    score = zlib.crc32(Path(config["model"], "model.safetensors").read_bytes())
    Path(config["out"], "metrics.json").write_text(json.dumps({"score": score}))


def test_the_better_half_goes_on_to_the_bits_of_an_undisturbed_training(parts, launch, capsys):
    base, rungs = parts.train(), Halving(rungs=(0.5, 1.0))
    found = sweep(
        base,
        {"learning_rate": [1e-3, 3e-3]},
        name="halved",
        metric="validation/loss",
        halving=rungs,
        finished_only=True,
    )
    launch(found.table, found.best())
    table = json.loads((launch.output(found.table) / "sweep.json").read_text())
    assert [(point["point"], point["rung"]) for point in table["points"]] == [("lr=0.003", 1), ("lr=0.001", 0)]
    assert (launch.output(found.table) / "table.txt").read_text() in capsys.readouterr().out
    best = launch.output(found.best())
    transformers.AutoModelForCausalLM.from_pretrained(best, local_files_only=True)
    card = (best / "README.md").read_text()
    assert "# halved, lr=0.003" in card and "| learning_rate | 0.003 |" in card

    own = lambda name, model: ExecutorStep(name, digest, {"model": model, "out": this_output_path()})  # noqa: E731
    alone = sweep(
        base, [{"learning_rate": 3e-3}], name="whole", metric="own/score", direction="max", evaluations={"own": own}
    )
    run = launch(alone.table)
    (point,) = json.loads((launch.output(alone.table) / "sweep.json").read_text())["points"]
    assert point["value"] == point["figures"]["own/score"] > 0 and "validation/loss" in point["figures"]
    alone.print_results(run)
    assert "own/score (max)" in capsys.readouterr().out

    outputs = [launch.output(alone.trained["lr=0.003"]), launch.output(found.trained["rung2_1"])]
    weights = [dict(ModelDirectory(str(output / "model")).tensors()) for output in outputs]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    rates = [[json.loads(line)["lr"] for line in (output / "metrics.jsonl").open()] for output in outputs]
    assert rates[0] == rates[1] and len(rates[0]) == 6
    first = launch.output(found.trained["lr=0.003"])
    assert len((first / "metrics.jsonl").read_text().splitlines()) == 3
    assert [path.name for path in (first / "checkpoints").iterdir()] == ["step-3"]
    assert "going on from lr=0.003" in (outputs[1] / ".log").read_text()


def test_optuna_chooses_from_results_and_chooses_the_same_again(parts, launch):
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
