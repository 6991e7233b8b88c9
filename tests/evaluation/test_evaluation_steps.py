"""`steps.perplexity` and `steps.lm_eval` as a launch runs them."""

import json
import sys
from pathlib import Path

import pytest

from marin_sft import Executor, ExecutorFlags, ExecutorStep
from marin_sft.errors import ConfigError, RunFailed
from marin_sft.evaluation.lm_eval import LmEvalConfig
from marin_sft.execution.graph import build_graph
from marin_sft.steps import lm_eval, mixture, perplexity, random_model, tokenize
from marin_sft.training.fakes import word_tokenizer
from marin_sft.training.models import LlamaConfig
from tests.evaluation.test_perplexity import by_transformers

SHAPE = LlamaConfig(max_seq_len=64, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=4, num_kv_heads=2)


def fingerprint(step: ExecutorStep) -> str:
    return build_graph([step]).node(step).fingerprint


def launch(prefix: Path, *steps: ExecutorStep, **flags):
    return Executor(ExecutorFlags(prefix=str(prefix), backend="inline", **flags)).run(list(steps))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("tokenizer"))
    word_tokenizer([f"w{i}" for i in range(40)]).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(tokenizer) -> ExecutorStep:
    return random_model("tiny", SHAPE, tokenizer=tokenizer, seed=1)


@pytest.fixture(scope="module")
def tokens(tokenizer, tmp_path_factory) -> dict[str, ExecutorStep]:
    """Two components: one with a validation split beside its training rows, one with rows for validation alone."""
    folder = tmp_path_factory.mktemp("rows")

    def rows(name: str, answers: list[str]) -> str:
        messages = [[{"role": "user", "content": "w1"}, {"role": "assistant", "content": text}] for text in answers]
        (folder / name).write_text("".join(json.dumps({"messages": row}) + "\n" for row in messages))
        return str(folder / name)

    one = rows("one.jsonl", ["w2 w3", "w4 w5 w6"])
    return {
        "one": tokenize("one", rows("train.jsonl", ["w9"]), tokenizer=tokenizer, validation=one),
        "two": tokenize("two", (), tokenizer=tokenizer, validation=rows("two.jsonl", ["w7 w8"])),
    }


def test_perplexity_of_tokenization_steps(model, tokens, tmp_path):
    step = perplexity("tiny", model, tokens, seq_len=32)
    run = launch(tmp_path, step)
    metrics = json.loads(Path(run.output_path(step), "metrics.json").read_text())
    for name, source in tokens.items():
        nll, count = by_transformers(run.output_path(model), run.output_path(source))
        assert metrics[f"trained_tokens/{name}"] == count
        assert metrics[f"loss/{name}"] == pytest.approx(nll / count, abs=1e-4)
    assert metrics["trained_tokens"] == sum(metrics[f"trained_tokens/{name}"] for name in tokens)

    again = launch(tmp_path, perplexity("tiny", model, tokens, seq_len=32, batch_size=2))
    assert {result.status for result in again.results} == {"cached"}


def test_perplexity_of_a_mixture_step_uses_its_rows(model, tokens, tmp_path):
    blend = mixture("blend", tokens, weights={"one": 1, "two": 0}, seq_len=32)
    step = perplexity("tiny", model, blend)
    assert step.config.tokenized == tokens
    metrics = json.loads(Path(launch(tmp_path, step).output_path(step), "metrics.json").read_text())
    assert metrics["trained_tokens"] == sum(metrics[f"trained_tokens/{name}"] for name in tokens)


def test_what_perplexity_is_made_of(model, tokens):
    def made(**changes) -> str:
        return fingerprint(perplexity("tiny", model, tokens, **{"seq_len": 32, **changes}))

    assert made() == made(batch_size=3)
    assert len({made(), made(seq_len=48), made(precision="bf16")}) == 3
    with pytest.raises(ConfigError, match="perplexity 'tiny': got seq_len=None; expected the length of rows"):
        made(seq_len=None)
    with pytest.raises(ConfigError, match="and None with a mixture step"):
        perplexity("tiny", model, mixture("blend", tokens, weights={"one": 1}, seq_len=32), seq_len=32)


def test_what_lm_eval_is_made_of(model, tmp_path):
    def made(**changes) -> str:
        return fingerprint(lm_eval("tiny", model, **{"tasks": ["gsm8k", "arc"], **changes}))

    step = lm_eval("tiny", model, ["gsm8k", "arc"], limit=10)
    assert (step.name, step.config.tasks, step.config.limit) == ("lm_eval/tiny", ("gsm8k", "arc"), 10)
    assert isinstance(step.config, LmEvalConfig)
    assert made() == made(batch_size=3) == made(device="cpu")
    assert len({made(), made(tasks=["gsm8k"]), made(limit=10), made(num_fewshot=0), made(seed=1)}) == 5
    (tmp_path / "mine.yaml").write_text("task: mine")
    before = made(task_files=str(tmp_path))
    (tmp_path / "mine.yaml").write_text("task: other")
    assert made(task_files=str(tmp_path)) != before
    with pytest.raises(ConfigError, match="LmEvalConfig.tasks = 'gsm8k': expected a list of task names"):
        lm_eval("tiny", model, "gsm8k")


def test_a_launch_without_the_harness_names_the_extra(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as if it were not installed, where it is
    step = lm_eval("tiny", model, ["gsm8k"])
    with pytest.raises(RunFailed, match=r"1 step\(s\) failed"):
        launch(tmp_path, step)
    told = capsys.readouterr().out
    assert "the step needs the LM Evaluation Harness" in told and "pip install 'marin_sft[eval]'" in told
    (failure,) = tmp_path.glob("lm_eval/tiny-*/1/.failure.json")
    assert json.loads(failure.read_text())["error"].startswith("ConfigError: the step needs the LM Evaluation Harness")
