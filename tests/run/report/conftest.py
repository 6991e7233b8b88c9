"""A launch of every kind of step that a page shows, with texts that try to break out of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.errors import RunFailed
from marin_sft.evaluation.step_configs import ExportTableConfig
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn
from marin_sft.execution.step import this_output_path, unversioned
from marin_sft.execution.stores import open_store
from marin_sft.inputs import path_of
from marin_sft.run.report.command import report_contents
from marin_sft.steps import lint, mixture, tokenize, train_tokenizer
from marin_sft.sweeps.step_configs import SweepTableConfig, SweptRunSpec
from marin_sft.training.metrics.metrics_log import MetricsLog
from tests.gcs_server import GcsServer

HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"


@dataclass(frozen=True)
class TrainedConfig:
    mixture: str
    rate: float
    output_path: str = this_output_path()


@dataclass(frozen=True)
class AnsweredConfig:
    model: str
    right: object
    prompts: str = "held_out"
    output_path: str = this_output_path()


@step_fn(kind="trained")
def trained(config: TrainedConfig) -> None:
    """Logs as a training does: 100 tokens a step at 50 tokens/s; the third loss is not finite."""
    print(HOSTILE)
    log = MetricsLog(config.output_path, [])
    for step in range(1, 11):
        loss = float("nan") if step == 3 else 5 / step + config.rate
        known = {"step": step, "epoch": step / 5, "loss": loss, "mfu": None}
        log.add({**known, "tokens": 100 * step, "trained_tokens": 10 * step, "tokens_per_second": 50.0})
    log.close({"training_seconds": 20.0})


@step_fn(kind="generate")
def answered(config: AnsweredConfig) -> None:
    """Answers as `generate` writes them."""
    rows = [
        {"set": name, "prompt": f"{name} {n} {HOSTILE}", "reference": HOSTILE, "finish": "stop"}
        for name in ("easy", "hard")
        for n in range(20)
    ]
    given = [{**row, "generation": f"{HOSTILE} {config.right}", "exact_match": config.right} for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in given)
    Path(config.output_path, "generations.jsonl").write_text(text)
    Path(config.output_path, "metrics.json").write_text(json.dumps({"exact_match": float(config.right), "prompts": 40}))


def turns(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="session")
def launched(tmp_path_factory):
    """`prefix` and `store` of the launch, and its directory."""
    folder = tmp_path_factory.mktemp("report")
    rows = [turns(f"What is {n} + {n}?", f"{2 * n}") for n in range(60)] + [turns(HOSTILE, HOSTILE)]
    bad = [{"messages": [{"role": "user", "content": f"no answer {HOSTILE}"}]}] * 2
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *bad]))

    tokenizer = train_tokenizer("tiny", [str(data)], vocab_size=320)
    tokens = {"mine": tokenize("mine", str(data), tokenizer=tokenizer, format=ChatLmDatasetFormat())}
    blend = mixture("mine", tokens, weights={"mine": 2}, seq_len=512)
    runs = [ExecutorStep(f"checkpoints/rate{rate}", trained, TrainedConfig(blend, rate)) for rate in (0.1, 0.2)]
    scores = [
        ExecutorStep(f"evaluation/{name}", answered, AnsweredConfig(model, unversioned(right)))
        for name, model, right in (("before", tokenizer, False), ("after", runs[0], True))
    ]
    by_step = {str(step): {"held": path_of(score)} for step, score in zip((100, 200), scores, strict=True)}
    exports = ExecutorStep("evaluation/tiny_exports", config=ExportTableConfig(evaluations=by_step))
    prefix = str(folder / "store")
    run = Executor(ExecutorFlags(prefix=prefix, backend="inline")).run([exports, *runs], description=HOSTILE)
    assert not run.failed
    return SimpleNamespace(prefix=prefix, store=open_store(prefix), folder=folder)


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
def swept_launch(tmp_path):
    """Runs a sweep of these rates; 0.4 fails. Returns the contents of its report."""

    def run(
        rates=(0.1, 0.2, 0.3, 0.4), finished_only=False, run_only=(), settings=None, prefix=str(tmp_path / "store")
    ):
        runs = []
        for rate in rates:
            step = ExecutorStep(f"checkpoints/s/lr={rate}", swept, SweptConfig(rate, unversioned(rate == 0.4)))
            used = step.optional() if finished_only else step
            runs.append(
                SweptRunSpec(point=f"lr={rate}", settings=settings or {"lr": rate, "text": HOSTILE}, trained=used)
            )
        table = ExecutorStep("sweeps/s", config=SweepTableConfig(runs=tuple(runs), metric="loss", direction="min"))
        flags = ExecutorFlags(prefix=prefix, backend="inline", run_only=run_only)
        try:
            Executor(flags).run([table])
        except RunFailed:
            pass
        return report_contents(open_store(flags.prefix), [])

    return run


@pytest.fixture(scope="session")
def linted(tmp_path_factory):
    """The contents of a report about two lint steps, one of which failed by its threshold."""
    folder = tmp_path_factory.mktemp("linted")
    rows = [turns(f"{HOSTILE} {n % 20}", f"{HOSTILE} {n}") for n in range(60)] + [turns(HOSTILE, "")]
    more = [turns(f"Question {n}", f"Answer {n}") for n in range(30)] + [turns(f"{HOSTILE} 3", "Else.")]
    for name, some in (("rows", rows), ("more", more)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    data = {name: str(folder / f"{name}.jsonl") for name in ("rows", "more")}
    steps = [
        lint("fine", data, test_sets={"exam": data["more"]}),
        lint("broken", data["rows"], fail_above={"duplicate_prompts": 0.1, "empty_answers": 0.5}),
    ]
    prefix = str(folder / "store")
    with pytest.raises(RunFailed):
        Executor(ExecutorFlags(prefix=prefix, backend="inline")).run(steps)
    return report_contents(open_store(prefix), [])


@pytest.fixture
def gcs(monkeypatch):
    """Google Cloud Storage on loopback, with an empty bucket."""
    import gcsfs

    with GcsServer() as server:
        server.create_bucket("bucket")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield server
        gcsfs.GCSFileSystem.clear_instance_cache()
