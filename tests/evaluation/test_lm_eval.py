import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
import torch
import transformers

from marin_sft import Executor, ExecutorFlags, steps
from marin_sft.errors import ConfigError
from marin_sft.evaluation.lm_eval import LmEvalConfig, lm_eval, metrics, template_arguments
from marin_sft.training.fakes import word_tokenizer
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="the harness is installed")
def test_without_the_harness_the_extra_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"pip install 'marin_sft\[eval\]'"):
        lm_eval(LmEvalConfig(model=str(tmp_path), tasks=("gsm8k",), output_path=str(tmp_path)))


def test_metrics_have_names_for_people():
    results = {
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.5,
            "exact_match_stderr,strict-match": "N/A",
            "exact_match,flexible-extract": 0.75,
        },
        "arc": {"acc,none": 1, "alias": "arc"},
    }
    assert metrics(results) == {
        "arc/acc": 1,
        "gsm8k/exact_match/strict-match": 0.5,
        "gsm8k/exact_match/flexible-extract": 0.75,
    }


def test_arguments_of_the_template_go_to_the_harness():
    from transformers.utils.chat_template_utils import render_jinja_template

    kwargs = {"enable_thinking": False}
    config = LmEvalConfig(model="m", tasks=("gsm8k",), chat_template_kwargs=kwargs, template_date="2025-01-02")
    template = "{{ strftime_now('%d %b %Y') }} {{ enable_thinking }}"
    assert render_jinja_template([[]], chat_template=template, **template_arguments(config))[0] == ["02 Jan 2025 False"]
    with pytest.raises(ConfigError, match="expected {} where apply_chat_template is False"):
        LmEvalConfig(model="m", tasks=("gsm8k",), chat_template_kwargs=kwargs, apply_chat_template=False)


def test_tasks_are_a_list():
    with pytest.raises(ConfigError, match="LmEvalConfig.tasks = 'gsm8k': expected a list of task names"):
        LmEvalConfig(model="m", tasks="gsm8k")


TASK = """
task: capitals
dataset_path: json
dataset_kwargs:
  data_files: {test: ROWS}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
"""
DOCUMENTS = [
    {"question": f"w{i} w{i + 3}", "choices": [f"w{i + 1}", f"w{2 * i} w{i}", "w7"], "answer": i % 3} for i in range(12)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    tokenizer, path = (str(tmp_path_factory.mktemp(name)) for name in ("tokenizer", "model"))
    word_tokenizer([f"w{i}" for i in range(40)]).save_pretrained(tokenizer)
    shape = LlamaConfig(max_seq_len=64, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=4, num_kv_heads=2)
    random_model(RandomModelConfig(model=shape, tokenizer=tokenizer, seed=1, output_path=path))
    return path


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> str:
    """A directory with a task of the harness, whose documents are a local file."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    (folder / "capitals.yaml").write_text(TASK.replace("ROWS", str(folder / "rows.jsonl")))
    return str(folder)


def chosen(path: str, document: dict, chat: bool) -> int:
    """The most likely choice, by transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    text, space = document["question"], " "
    if chat:
        asked = [{"role": "user", "content": text}]
        text, space = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True), ""
    scores = []
    for choice in document["choices"]:
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = tokenizer(text + space + choice, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logps = model(torch.tensor([ids])).logits.log_softmax(-1)[0]
        scores.append(sum(logps[i - 1, ids[i]].item() for i in range(len(prompt), len(ids))))
    return max(range(len(scores)), key=scores.__getitem__)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="make lm-eval runs it, with the harness")
@pytest.mark.parametrize("chat", [True, False])
def test_a_task_of_local_files_is_scored_as_transformers_scores_it(model, tasks, tmp_path, monkeypatch, chat):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    step = steps.lm_eval("tiny", model, ["capitals"], task_files=tasks, apply_chat_template=chat, device="cpu")
    run = Executor(ExecutorFlags(prefix=str(tmp_path), backend="inline")).run([step])
    output = Path(run.output_path(step))
    right = [chosen(model, document, chat) == document["answer"] for document in DOCUMENTS]
    figures = json.loads((output / "metrics.json").read_text())
    assert figures["capitals/acc"] == pytest.approx(sum(right) / len(right)) and 0 < sum(right) < len(right)
    results = json.loads((output / "results.json").read_text())
    assert results["n-samples"]["capitals"]["effective"] == len(DOCUMENTS)

    limited = LmEvalConfig(
        model=model, tasks=("capitals",), task_files=tasks, limit=5, output_path=str(tmp_path / "few")
    )
    lm_eval(limited)
    assert json.loads((tmp_path / "few" / "results.json").read_text())["n-samples"]["capitals"]["effective"] == 5
    with pytest.raises(ConfigError, match=r"the harness has no \['capital'\]"):
        lm_eval(dataclasses.replace(limited, tasks=("capital",)))
