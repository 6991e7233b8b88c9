"""Identities that must not move: of the published experiments' steps, and of a step of each kind.

    python -m tests.test_identity        writes tests/identities.json again

A step whose identity moves is run again by everyone who has its output. When a test here fails:
- The step's output is meant to change: raise `version` of its kind, and write the file again.
- It is not: keep the config's text. A new field is declared with `omitted_when`; a class or a field keeps its name.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from marin_sft import steps
from marin_sft.data.formats import ChatLmDatasetFormat, PreferenceChatLmDatasetFormat
from marin_sft.execution.graph import build_graph
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import LlamaConfig
from marin_sft.training.stops import EarlyStopping

ROOT = Path(__file__).parents[1]
IDENTITIES = Path(__file__).with_name("identities.json")
EXPERIMENTS = sorted(file.name for file in ROOT.glob("experiments/exp*.py")) + ["quickstart.py"]
KINDS = "a step of each kind"


def of_experiment(name: str) -> dict[str, str]:
    """The directory of each step of a published experiment, by step name."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MARIN")}
    with TemporaryDirectory() as prefix:
        command = [sys.executable, f"experiments/{name}", "--dry_run", "--json", "--prefix", prefix]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {step["name"]: step["path"].removeprefix(f"{prefix}/") for step in json.loads(done.stdout)}


def of_kinds() -> dict[str, str]:
    """The directory of a step of each kind, by step name: one with few settings, one with many."""
    tokenizer = steps.download("t", hf_tokenizer_id="org/tokenizer", revision="1" * 40)
    base = steps.download("m", hf_model_id="org/model", revision="2" * 40, ignore_patterns=("*.bin",))
    raw = steps.download("d", hf_dataset_id="org/data")
    urls = steps.download_urls("u", ["https://host/a.jsonl?sig=1"], sha256={"https://host/a.jsonl?sig=1": "0" * 64})
    documents = steps.transform("d", raw, source="org/data", splits=("train", "test"), metadata_columns=("id",))
    trained_tokenizer = steps.train_tokenizer("own", [documents / "**/*.jsonl.gz"], vocab_size=512)
    shape = LlamaConfig(max_seq_len=64, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=2, num_kv_heads=1)
    random = steps.random_model("r", shape, tokenizer=trained_tokenizer, seed=3)
    chat = steps.tokenize("chat", documents / "**/*.jsonl.gz", tokenizer=tokenizer)
    format = ChatLmDatasetFormat(
        shape="sharegpt", train_on="last", columns={"messages": "turns"}, role_map={"bot": "assistant"}
    )
    more = steps.tokenize("more", urls / "*.jsonl", tokenizer=tokenizer, format=format, validation=urls / "v.jsonl")
    pairs = steps.tokenize("pairs", raw / "*.parquet", tokenizer=tokenizer, format=PreferenceChatLmDatasetFormat())
    blend = steps.mixture("blend", {"chat": chat}, weights={"chat": 1}, seq_len=64)
    options = {"stop_strategy": "first_exhausted", "over_length": "drop", "mixture_block_size": 8}
    varied = steps.mixture(
        "varied", {"chat": chat, "more": more}, weights={"chat": 3, "more": 1}, seq_len=64, **options
    )
    preferred = steps.mixture("pairs", {"pairs": pairs}, weights={"pairs": 1}, seq_len=64, max_prompt_length=32)
    few = {"learning_rate": 1e-5, "train_batch_size": 8, "num_train_epochs": 1}
    plain = steps.sft("plain", mixture=blend, base_model=random, **few)
    many = steps.sft(
        "many",
        mixture=varied,
        base_model=base,
        seed=1,
        steps_per_hf_export=10,
        hf_save_dtype="bfloat16",
        hf_generation_eos_token_ids=(1, 2),
        learning_rate=1e-4,
        train_batch_size=16,
        num_train_steps=100,
        lr_schedule="linear",
        warmup=10,
        decay=0.5,
        learning_rate_end=1e-6,
        optimizer="muon",
        weight_decay=0.1,
        max_grad_norm=None,
        skip_bad_steps=10,
        precision="bf16_full",
        frozen_parameters="embed",
        unfreeze={"lm_head": 5},
        reinit_tokens=("<a>",),
        early_stopping=EarlyStopping(metric="eval/loss", steps=10, patience=2),
        max_evaluation_steps=4,
        z_loss_weight=1e-4,
        label_smoothing=0.1,
        neftune_noise_alpha=5.0,
        steps_per_log=3,
    )
    adapter = steps.sft("adapter", mixture=blend, base_model=base, lora=LoraConfig(r=4, alpha=8, use_dora=True), **few)
    further = steps.sft("further", mixture=blend, base_model=base, lora=LoraConfig(adapter_path=adapter), **few)
    preference = steps.dpo("plain_pairs", mixture=preferred, base_model=plain / "model", **few)
    weighted = steps.dpo(
        "many_pairs",
        mixture=preferred,
        base_model=base,
        reference=random,
        loss_type={"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0},
        beta=0.2,
        label_smoothing=0.1,
        bco_delta=0.5,
        ld_alpha=0.3,
        use_weighting=True,
        precision="fp32",
        **few,
    )
    synced = steps.dpo("synced", mixture=preferred, base_model=base, ref_model_sync_steps=4, loss_type="ipo", **few)
    simpo = steps.dpo("simpo", mixture=preferred, base_model=base, loss_type="simpo", simpo_gamma=1.0, **few)
    exported = steps.export("x", plain, dtype="float32", generation_eos_token_ids=(7,))
    answers = steps.evaluate("e", exported, {"held_out": documents / "test/*"}, max_new_tokens=8, temperature=0.5)
    nll = steps.perplexity("p", exported, {"chat": chat}, seq_len=64)
    harness = steps.lm_eval("h", exported, ["arc_easy"], num_fewshot=2)
    scores = steps.evaluate_exports(
        "kinds",
        many,
        {"nll": lambda name, model: steps.perplexity(name, model, {"chat": chat}, seq_len=64)},
        at=[10, 100],
    )
    exports = [steps.export("y", many), scores.table, scores.best("nll/loss")]
    rates = {"learning_rate": [1e-5, 1e-4]}
    halved = steps.sweep(plain, rates, name="halved", metric="loss", halving=steps.Halving())
    searched = {"search": steps.OptunaSearch(points=2), "finished_only": True}
    asked = steps.sweep(plain, {"beta1": steps.Between(0.8, 0.95)}, name="asked", metric="loss", **searched)
    swept = [halved.best(), asked.table]
    linted = steps.lint(
        "l", varied, test_sets={"held_out": documents / "test/*"}, fail_above={"leaked_test_prompts": 0.1}
    )
    last = [linted, *swept, many, further, weighted, preference, synced, simpo, answers, nll, harness, *exports]
    return {node.name: node.directory for node in build_graph(last)}


def found(name: str) -> dict[str, str]:
    return of_kinds() if name == KINDS else of_experiment(name)


@pytest.mark.parametrize("name", [*EXPERIMENTS, KINDS])
def test_identities_do_not_move(name):
    now, before = found(name), json.loads(IDENTITIES.read_text())[name]
    moved = {step: (before.get(step), now.get(step)) for step in {*before, *now} if before.get(step) != now.get(step)}
    assert not moved, f"{__doc__}\n{len(moved)} identities of {name} moved: {moved}"


if __name__ == "__main__":
    IDENTITIES.write_text(json.dumps({name: found(name) for name in [*EXPERIMENTS, KINDS]}, indent=1) + "\n")
