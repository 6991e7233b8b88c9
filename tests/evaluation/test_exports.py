"""Exports evaluated while their training goes on, on real trainings: inline, and killed on Ray."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from marin_sft import Executor, ExecutorFlags
from marin_sft.errors import ConfigError, DataError, RunFailed
from marin_sft.evaluation.export_table import best_export, export_table, read_table, table_text
from marin_sft.evaluation.step_configs import BestExportConfig, ExportTableConfig
from marin_sft.steps import evaluate, evaluate_exports, lm_eval, mixture, perplexity, random_model, sft, tokenize
from marin_sft.training.fakes import word_tokenizer
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.stops import EarlyStopping

SCRIPT = """
    import dataclasses, json, sys
    from pathlib import Path
    from marin_sft import CpuConfig, ExecutorStep, executor_main, step_fn, this_output_path
    from marin_sft.steps import evaluate_exports, mixture, random_model, sft, tokenize
    from marin_sft.training.models import LlamaConfig

    @dataclasses.dataclass(frozen=True)
    class SizeConfig:
        model: str
        output_path: str = this_output_path()

    @step_fn(kind="size_of_model")
    def size(config):
        sizes = [file.stat().st_size for file in Path(config.model).iterdir() if file.is_file()]
        Path(config.output_path, "metrics.json").write_text(json.dumps({"bytes": sum(sizes), "files": len(sizes)}))

    shape = LlamaConfig(max_seq_len=64, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=4, num_kv_heads=2)
    data = mixture("m", {"a": tokenize("a", "rows.jsonl", tokenizer="tokenizer")}, weights={"a": 1}, seq_len=32)
    trained = sft(
        "t", mixture=data, base_model=random_model("r", shape, tokenizer="tokenizer"), learning_rate=1e-3,
        train_batch_size=4, num_train_steps=STEPS, steps_per_hf_export=STEPS // 5, steps_per_checkpoint=STEPS // 20,
        precision="fp32", gradient_checkpointing=False, resources=CpuConfig(cpus=1), steps_per_log=STEPS,
    )
    own = lambda name, model: ExecutorStep(name, size, SizeConfig(model), resources=CpuConfig(cpus=0))
    scores = evaluate_exports("e", trained, {"size": own})
    executor_main(steps=[scores.table, scores.best("size/bytes", "max")])
"""
SHAPE = LlamaConfig(max_seq_len=64, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=4, num_kv_heads=2)


def write_rows(path: Path) -> str:
    messages = [
        [{"role": "user", "content": f"w{i % 7}"}, {"role": "assistant", "content": f"w{i % 7 + 1} w{i % 5}"}]
        for i in range(40)
    ]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in messages))
    return str(path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> SimpleNamespace:
    """A way to make trainings, and rows to evaluate on."""
    folder = tmp_path_factory.mktemp("parts")
    tokenizer, rows = str(folder / "tokenizer"), write_rows(folder / "rows.jsonl")
    word_tokenizer([f"w{i}" for i in range(40)]).save_pretrained(tokenizer)
    tokens = {"a": tokenize("a", rows, tokenizer=tokenizer, validation=rows)}
    data = mixture("m", tokens, weights={"a": 1}, seq_len=32)
    base = random_model("r", SHAPE, tokenizer=tokenizer)

    def trained(**changes):
        fields = {
            "learning_rate": 1e-2,
            "train_batch_size": 4,
            "num_train_steps": 7,
            "steps_per_hf_export": 2,
            "precision": "fp32",
            "gradient_checkpointing": False,
        }
        fields = {name: value for name, value in {**fields, **changes}.items() if value is not None}
        return sft("t", mixture=data, base_model=base, **fields)

    return SimpleNamespace(trained=trained, rows=rows, data=data, folder=folder)


def launch(prefix: Path, *steps, **flags):
    return Executor(ExecutorFlags(prefix=str(prefix), backend="inline", **flags)).run(list(steps))


def test_the_table_by_training_step_and_the_best_export(parts, tmp_path, capsys):
    trained = parts.trained()
    scores = evaluate_exports(
        "e",
        trained,
        {
            "answers": lambda name, model: evaluate(name, model, {"rows": parts.rows}, max_new_tokens=4, max_prompts=4),
            "nll": lambda name, model: perplexity(name, model, parts.data),
        },
        every=4,
    )
    best = scores.best("nll/loss")
    run = launch(tmp_path, scores.table, best)

    (table, chosen, training) = (Path(run.output_path(step)) for step in (scores.table, best, trained))
    rows = read_table(str(table))
    assert [row["step"] for row in rows] == [4, 7]
    assert {"answers/exact_match", "answers/stopped", "nll/loss", "nll/perplexity"} <= rows[0].keys()
    for row in rows:
        output = Path(run.output_path(scores.evaluations[int(row["step"])]["nll"]))
        assert row["nll/loss"] == json.loads((output / "metrics.json").read_text())["loss"]
    assert rows[0]["nll/loss"] != rows[1]["nll/loss"]
    assert (table / "table.txt").read_text() in capsys.readouterr().out

    lowest = min(rows, key=lambda row: row["nll/loss"])
    assert json.loads((chosen / "metrics.json").read_text()) == {"step": lowest["step"], "nll/loss": lowest["nll/loss"]}
    export = training / "hf" / f"step-{lowest['step']}"
    assert export.is_dir() and all((chosen / file.name).read_bytes() == file.read_bytes() for file in export.iterdir())
    assert len(dict(ModelDirectory(str(chosen)).tensors())) > 5

    again = launch(tmp_path, scores.table, best, dry_run=True)
    assert {str(item.action) for item in again.plan} == {"SKIP"}


def test_an_export_that_the_training_never_wrote_is_named(parts, tmp_path):
    trained = parts.trained(num_train_steps=None, num_train_epochs=0.4)
    scores = evaluate_exports(
        "e", trained, {"nll": lambda name, model: perplexity(name, model, parts.data)}, at=[2, 400]
    )
    with pytest.raises(RunFailed):
        launch(tmp_path, scores.table)
    run = launch(tmp_path, *(step["nll"] for step in scores.evaluations.values()), dry_run=True)
    actions = {item.node.name: str(item.action) for item in run.plan}
    assert actions["perplexity/e_nll_step2"] == "SKIP" and actions["perplexity/e_nll_step400"] == "RUN"


@pytest.mark.parametrize(
    ("training", "wanted", "message"),
    [
        ({"steps_per_hf_export": -1}, {}, "writes no exports while it runs; give it steps_per_hf_export"),
        ({"hf_exports_kept": 2}, {}, "has hf_exports_kept=2, so an export may be gone before it is evaluated"),
        (
            {"num_train_epochs": 1},
            {},
            "since num_train_epochs gives its length; expected num_train_steps alone",
        ),
        (
            {"early_stopping": EarlyStopping(steps=2, patience=1)},
            {},
            "since early_stopping may end it",
        ),
        ({}, {"every": 3}, "every = 3: step 'checkpoints/t_seed0' exports every 2 steps; expected a multiple of that"),
        ({}, {"every": 2, "at": [2]}, "got every=2 and at=.2.; expected one of them"),
        ({}, {"at": [2, 3, 8]}, r"at = \[3, 8\]: .* exports every 2 steps, and after the last, 7; expected such steps"),
        ({}, {"at": []}, r"at = \[\]"),
        ({}, {"at": 5}, "at = 5; expected a list of training steps, or None"),
        ({}, {"at": [2, "4"]}, "at = '4'; expected training steps"),
        ({}, {"every": "2"}, "every = '2'; expected a number of training steps, or None"),
        ({}, {"name": 5}, "name = 5; expected a text"),
        ({}, {"evaluations": {"a": 5}}, r"evaluations\['a'\] = 5; expected a function from a name and a model"),
        ({}, {"evaluations": [1]}, r"evaluations = \[1\]; expected functions by name"),
        ({}, {"evaluations": {}}, "got no evaluations"),
    ],
)
def test_exports_that_cannot_be_had_are_refused_by_name(parts, training, wanted, message):
    arguments = {"name": "e", "evaluations": {"nll": lambda name, model: model.step}, **wanted}
    with pytest.raises(ConfigError, match=message):
        evaluate_exports(trained=parts.trained(**training), **arguments)


def test_the_last_export_is_always_evaluated(parts):
    def steps(**wanted) -> list[int]:
        made = {"nll": lambda name, model: perplexity(name, model, parts.data)}
        return list(evaluate_exports("e", parts.trained(), made, **wanted).exports)

    assert steps() == [2, 4, 6, 7] and steps(every=4) == [4, 7] and steps(at=[7, 2, 2]) == [2, 7]
    assert steps(every=8) == [7]


@pytest.mark.parametrize(
    ("metric", "direction", "expected"),
    [
        ("answers/exact_match", None, "max"),
        ("answers/loss/acc_of_set", None, "min"),
        ("answers/score", "min", "min"),
        ("answers/acc/loss", None, "whether a high or a low answers/acc/loss is good is not known"),
        ("answers/score", None, "give direction='max' or 'min'"),
        ("answer/exact_match", None, "did you mean 'answers'?"),
        ("answers", None, "expected the name of an evaluation and one of its figures"),
        ("answers/score", "up", "direction = 'up': expected 'max' or 'min'"),
    ],
)
def test_the_direction_of_a_metric_is_stated_or_known(parts, metric, direction, expected):
    scores = evaluate_exports("e", parts.trained(), {"answers": lambda name, model: lm_eval(name, model, ["own"])})
    if expected in ("max", "min"):
        assert scores.best(metric, direction).config.direction == expected
    else:
        with pytest.raises(ConfigError, match=expected.replace("?", r"\?")):
            scores.best(metric, direction)


def test_a_figure_that_an_evaluation_does_not_have_is_refused_before_anything_runs(parts):
    made = {
        "answers": lambda name, model: evaluate(
            name, model, {"rows": parts.rows, "more": parts.rows}, max_new_tokens=4
        ),
        "nll": lambda name, model: perplexity(name, model, parts.data),
    }
    scores = evaluate_exports("e", parts.trained(), made)
    for metric in (
        "answers/exact_match",
        "answers/exact_match/more",
        "answers/stopped",
        "nll/perplexity",
        "nll/loss/a",
    ):
        assert scores.best(metric, "max").config.metric == metric
    with pytest.raises(ConfigError, match="'evaluation/e_answers_step7' has no figure 'acc'; there are: exact_match,"):
        scores.best("answers/acc", "max")
    with pytest.raises(ConfigError, match=r"has no figure 'exact_match/mor'; did you mean 'exact_match/more'\?"):
        scores.best("answers/exact_match/mor", "max")
    with pytest.raises(ConfigError, match=r"has no figure 'losses'; did you mean 'loss'\?"):
        scores.best("nll/losses", "min")


def table_of(folder: Path, *values: float | None, first: int = 1) -> str:
    """The table of exports of steps `first`, ... with these figures; None: it has another one."""
    evaluations = {}
    for step, value in enumerate(values, first):
        output = folder / f"evaluation{step}"
        output.mkdir()
        (output / "metrics.json").write_text(json.dumps({"score": value, "n": 3} if value is not None else {"n": 3}))
        evaluations[str(step)] = {"own": str(output)}
        export = folder / "training" / "hf" / f"step-{step}"
        export.mkdir(parents=True)
        (export / "config.json").write_text(str(step))
    export_table(ExportTableConfig(evaluations=evaluations, output_path=str(folder / "table")))
    return str(folder / "table")


def best(folder: Path, table: str, direction: str = "max") -> str:
    paths = {"table": table, "trained": str(folder / "training"), "output_path": str(folder / "best")}
    (folder / "best").mkdir()
    best_export(BestExportConfig(metric="own/score", direction=direction, **paths))
    return (folder / "best" / "config.json").read_text()


@pytest.mark.parametrize(
    ("values", "direction", "step"),
    [((1, 3, 2), "max", 2), ((2, 1, 3), "min", 2), ((3, 1, 3), "max", 1), ((float("nan"), 1, 2), "min", 2)],
)
def test_the_best(tmp_path, capsys, values, direction, step):
    assert best(tmp_path, table_of(tmp_path, *values), direction) == str(step)
    assert ("1 of 3 exports are left out" in capsys.readouterr().out) == any(map(np.isnan, values))


def test_the_base_model_is_evaluated_as_of_step_0(parts):
    trained = parts.trained()
    made = {"nll": lambda name, model: perplexity(name, model, parts.data)}
    scores = evaluate_exports("e", trained, made, every=4, with_base=True)
    assert list(scores.evaluations) == [0, 4, 7] and list(scores.exports) == [4, 7]
    of_base = scores.evaluations[0]["nll"]
    assert of_base.config.model is trained.config.base_model and of_base.name == "perplexity/e_nll_step0"
    assert list(scores.table.config.evaluations) == ["0", "4", "7"]
    assert "0" not in evaluate_exports("e", trained, made, every=4).table.config.evaluations
    adapted = parts.trained(lora=LoraConfig(adapter_path="adapter"))
    with pytest.raises(ConfigError, match="with_base: training starts from an adapter, which is no model"):
        evaluate_exports("e", adapted, made, every=4, with_base=True)


@pytest.mark.parametrize("told", [True, False])
def test_the_base_model_is_no_export_that_could_be_best(tmp_path, capsys, told):
    table = table_of(tmp_path, 3 if told else 0, 1, 2, first=0)
    assert best(tmp_path, table) == "2"
    assert ("the base model is better: own/score 3" in capsys.readouterr().out) == told


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1.0, None), "has no such figure of step 2"),
        ((None, None), "has no such figure.*did you mean 'own/n'|there are: own/n"),
        ((float("inf"),), "own/score is not finite for any export"),
    ],
)
def test_a_figure_that_cannot_be_compared_is_named(tmp_path, values, message):
    with pytest.raises(DataError, match=message):
        best(tmp_path, table_of(tmp_path, *values))


@pytest.mark.parametrize("content", [None, "[]", "{", '{"a": "b", "c": true}'])
def test_an_evaluation_without_figures_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DataError, match=r"metrics\.json: .*expected a JSON object of numbers"):
        export_table(ExportTableConfig(evaluations={"1": {"own": str(tmp_path)}}, output_path=str(tmp_path / "out")))


def test_columns_of_the_table_are_aligned():
    assert table_text([{"step": 5, "a/loss": 0.25}, {"step": 100, "a/loss": 1e-9, "b/x": 3}]) == (
        "step  a/loss  b/x\n   5    0.25     \n 100   1e-09    3\n"
    )


def commits(store: Path) -> dict[str, dict]:
    """The commit of each step, by name."""
    found = {path.parents[1].name.rpartition("-")[0]: path for path in store.rglob("commits/000001.json")}
    return {name: json.loads(path.read_text()) for name, path in found.items()}


def claims(store: Path) -> dict[str, int]:
    return {path.parent.name.rpartition("-")[0]: len(list(path.glob("*.json"))) for path in store.glob("**/claims")}


@pytest.mark.slow
def test_a_killed_launch_goes_on_and_evaluates_nothing_twice(tmp_path):
    word_tokenizer([f"w{i}" for i in range(40)]).save_pretrained(tmp_path / "tokenizer")
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT).replace("STEPS", "2000"))
    command = [sys.executable, "script.py", "--prefix", "store"]
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")}
    store = tmp_path / "store"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    first = subprocess.Popen(command, cwd=tmp_path, env=env, **pipes)
    assert first.stdout is not None
    lines = []
    for line in first.stdout:
        lines.append(line)
        if " early  e_size_step" in line:
            break
    first.kill()
    first.wait()
    before = commits(store)
    done = {name for name in before if name.startswith("e_size_step")}
    assert done and "t_seed0" not in before, "".join(lines)

    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {claims(store)[name] for name in done} == {1}
    after = commits(store)
    (table,) = store.glob("evaluation/*/latest")
    assert [row["step"] for row in read_table(str(table))] == [400, 800, 1200, 1600, 2000]
    assert after["t_seed0"]["attempt"] > 1
    plan = subprocess.run([*command, "--dry_run", "--json"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert {item["action"] for item in json.loads(plan.stdout)} == {"SKIP"}
