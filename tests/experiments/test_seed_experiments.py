"""The seeds' experiments, each from its datasets on a hub to a model that transformers loads: at the scale of a laptop,
with small datasets and models under the published names, and otherwise as they are."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from tests.experiments.tiny_hub import tiny_hub

ROOT = Path(__file__).parents[2]
EXPERIMENTS = {
    "exp606_sft": ("llama3.1_tulu_sft", "meta-llama/Llama-3.1-8B-Instruct"),
    "exp808_sft_mixture": ("llama3.1_mixture_total", "marin-community/marin-tokenizer"),
    "exp_sft_wildchat_qwen3_14b": ("qwen3_14b_wildchat", "Qwen/Qwen3-14B"),
    "exp_sft_hh_rlhf_llama3": ("llama3.1_hh_rlhf", "meta-llama/Llama-3.1-8B-Instruct"),
    "exp_dpo_orpo_mix_qwen3_14b": ("qwen3_14b_orpo_dpo_mix", "Qwen/Qwen3-14B"),
    "exp_sft_alpaca_lora": ("qwen2.5_1.5b_alpaca_lora", "Qwen/Qwen2.5-1.5B"),
}
QUICK = ("exp808_sft_mixture", "exp_sft_alpaca_lora")
TRAINED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS]
DEAD_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}


def launch(experiment: str, store: Path, environment: dict[str, str], *flags: str) -> str:
    """Run an experiment as a user does: its stdout."""
    command = [sys.executable, ROOT / f"experiments/{experiment}.py", "--prefix", store, *flags]
    done = subprocess.run(command, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def plan(experiment: str, store: Path, environment: dict[str, str], *flags: str) -> dict[str, str]:
    """The action for each step's name, planned without a hub."""
    stdout = launch(experiment, store, {**environment, **DEAD_HUB}, "--dry_run", "--json", *flags)
    return {item["name"]: item["action"] for item in json.loads(stdout)}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Environment variables of the tiny hub and the tiny scale."""
    root = tmp_path_factory.mktemp("hub")
    with tiny_hub(root) as hub:
        yield {**hub.environment(home=root / "home"), "MARIN_SFT_SCALE": "tiny"}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_planned_at_full_scale(experiment, tmp_path):
    stdout = launch(experiment, tmp_path / "store", DEAD_HUB, "--dry_run", "--json")
    names = [item["name"] for item in json.loads(stdout)]
    name, _ = EXPERIMENTS[experiment]
    assert {f"checkpoints/{name}_seed0", f"hf/{name}"} <= set(names)
    assert any(step.startswith("mixtures/") for step in names)
    assert len(set(names)) == len(names)
    assert not (tmp_path / "store").exists()


def latest(store: Path, name: str) -> Path:
    (path,) = store.glob(f"{name}-*/latest")
    return path.resolve()


@pytest.fixture(scope="module")
def stores(hub, tmp_path_factory):
    """The store of an experiment after its first launch, which is made when it is first asked for."""
    made: dict[str, Path] = {}

    def store_of(experiment: str) -> Path:
        if experiment not in made:
            made[experiment] = tmp_path_factory.mktemp(experiment) / "store"
            launch(experiment, made[experiment], hub, "--backend", "ray" if experiment == "exp606_sft" else "inline")
        return made[experiment]

    return store_of


@pytest.mark.parametrize("experiment", TRAINED)
def test_from_the_hub_to_a_served_model(experiment, hub, stores):
    name, tokenizer_id = EXPERIMENTS[experiment]
    store = stores(experiment)
    assert set(plan(experiment, store, hub).values()) == {"SKIP"}

    trained = latest(store, f"checkpoints/{name}_seed0")
    assert [line["step"] for line in metrics_of(trained)][-1] == 4
    assert sorted(path.name for path in (trained / "hf").iterdir()) == ["step-2", "step-4"]
    final = latest(store, f"hf/{name}")
    assert logits(final) == logits(trained / "hf/step-4") != logits(trained / "hf/step-2")
    tokenizer = latest(store, f"tokenizers/{tokenizer_id.replace('/', '--')}")
    assert template_of(final) == template_of(tokenizer)


def metrics_of(trained: Path) -> list[dict]:
    return [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]


def template_of(directory: Path) -> str:
    return transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True).chat_template


def logits(directory: Path) -> list[float]:
    """Of the token after a question, by transformers, from a directory with everything that a server looks for."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "2+2?"}], add_generation_prompt=True)
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].tolist()


def test_each_dataset_of_the_mixture_is_trained_on(stores):
    mixture = json.loads(
        (latest(stores("exp808_sft_mixture"), "mixtures/llama3.1_mixture_total") / "mixture.json").read_text()
    )
    assert len(mixture["order"]["stages"][0]["share_of_rows"]) == 9


@pytest.mark.slow
def test_the_whole_of_a_wildchat_conversation_is_trained(stores):
    stats = json.loads(
        (latest(stores("exp_sft_wildchat_qwen3_14b"), "tokenized/wildchat_qwen3") / "stats.json").read_text()
    )
    assert stats["train"]["trained_tokens"] >= stats["train"]["tokens"] - stats["train"]["documents"] > 0


@pytest.mark.slow
def test_a_tenth_of_hh_rlhf_is_trained_on_and_the_rest_validated_on(stores):
    store = stores("exp_sft_hh_rlhf_llama3")
    texts = json.loads((latest(store, "tokenized/hh_rlhf_helpful") / "stats.json").read_text())
    assert texts["train"]["documents"] == 4
    measured = metrics_of(latest(store, "checkpoints/llama3.1_hh_rlhf_seed0"))
    assert [line["step"] for line in measured if "validation/loss/held_out" in line] == [2, 4]


@pytest.mark.slow
def test_pairs_are_compared_with_the_model_that_training_begins_with(stores):
    trained = latest(stores("exp_dpo_orpo_mix_qwen3_14b"), "checkpoints/qwen3_14b_orpo_dpo_mix_seed0")
    measured = metrics_of(trained)
    assert measured[0]["loss"] == pytest.approx(math.log(2), abs=1e-2)  # bfloat16
    assert [line["step"] for line in measured if "eval/rewards/margins" in line] == [2, 4]


def test_the_adapter_of_alpaca_lies_beside_the_merged_model(stores):
    store = stores("exp_sft_alpaca_lora")
    adapter = latest(store, "checkpoints/qwen2.5_1.5b_alpaca_lora_seed0") / "adapter"
    stored = json.loads((adapter / "adapter_config.json").read_text())
    expected = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "base_model_name_or_path": "Qwen/Qwen2.5-1.5B"}
    assert {name: stored[name] for name in expected} == expected
    card = (latest(store, "hf/qwen2.5_1.5b_alpaca_lora") / "README.md").read_text()
    assert "lora_r" in card and "lora_alpha" in card


def test_a_forced_dataset_reruns_itself_alone_when_its_tokens_are_the_same(hub, stores):
    """The command of the quickstart guide, given to a finished run."""
    store = stores("exp808_sft_mixture")
    forced = ["--force_run", '["tokenized/smoltalk"]']
    planned = plan("exp808_sft_mixture", store, hub, *forced)
    assert len(planned) == 31 and planned["tokenized/smoltalk"] == "RUN"
    assert "1 step run, 30 cached" in launch("exp808_sft_mixture", store, hub, "--backend", "inline", *forced)
    training = "checkpoints/llama3.1_mixture_total_seed0"
    assert plan("exp808_sft_mixture", store, hub, "--force_run", json.dumps([training]))[training] == "RUN"


def test_a_forced_training_with_the_same_weights_leaves_its_export_cached(hub, stores):
    """Its speeds are others than before, and are no part of what the export is made from."""
    store = stores("exp808_sft_mixture")
    training = "checkpoints/llama3.1_mixture_total_seed0"
    shown = launch("exp808_sft_mixture", store, hub, "--backend", "inline", "--force_run", f"['{training}']")
    assert "1 step run, 30 cached" in shown
    first, second = (Path(path).read_text() for path in sorted(store.glob(f"{training}-*/[12]/metrics.json")))
    assert first != second


def test_an_unknown_scale_is_an_error(tmp_path):
    command = [sys.executable, ROOT / "experiments/exp606_sft.py", "--dry_run", "--prefix", tmp_path]
    environment = {**os.environ, "MARIN_SFT_SCALE": "small"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "MARIN_SFT_SCALE='small'; expected one of full, tiny" in done.stderr


def test_planning_imports_nothing_heavy(tmp_path):
    program = (
        f"import runpy, sys; sys.argv = ['exp808', '--dry_run', '--prefix', {str(tmp_path)!r}];"
        "runpy.run_path('experiments/exp808_sft_mixture.py', run_name='__main__');"
        "heavy = {'jax', 'ray', 'transformers', 'levanter', 'datasets', 'numpy', 'pyarrow'} & set(sys.modules);"
        "sys.exit(f'planning imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
