"""The quickstart as a user runs it: killed in the middle of training, run again, edited, forced; its export served."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

ROOT = Path(__file__).parents[1]
STEPS = 19
AFTER_SFT = [
    "hf/quickstart",
    "evaluation/quickstart",
    "evaluation/quickstart_style",
    "reference_logprobs/exclaimed_quickstart",
    "checkpoints/quickstart_dpo_seed0",
    "hf/quickstart_dpo",
    "evaluation/quickstart_dpo",
]


def command(store: Path, *flags: str) -> list[str]:
    return [sys.executable, "experiments/quickstart.py", "--prefix", str(store), *flags]


def run(store: Path, *flags: str, **environment: str) -> str:
    import os

    env = {**os.environ, **environment}
    done = subprocess.run(command(store, *flags), cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def actions(store: Path, *flags: str, **environment: str) -> dict[str, tuple]:
    plan = json.loads(run(store, "--dry_run", "--json", *flags, **environment))
    return {item["name"]: (item["action"], item["reason"], item["detail"]) for item in plan}


def latest(store: Path, name: str) -> Path:
    (path,) = store.glob(f"{name}-*/latest")
    return path.resolve()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The store after a launch that was killed by kill -9 in training, and a second one that finished."""
    store = tmp_path_factory.mktemp("quickstart") / "store"
    first = subprocess.Popen(command(store), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for line in first.stdout:
        news = re.search(r"quickstart_seed0 \| (\d+)/\d+ steps", line)
        if news and int(news[1]) > 60:  # past the first checkpoint
            break
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = run(store)
    (store / "second.txt").write_text(second)
    return store


def test_a_report_of_it(store, tmp_path):
    """Everything that a report shows, of real steps."""
    path = tmp_path / "report.html"
    told = [sys.executable, "-m", "marin_sft.run.command", "report", "--prefix", str(store)]
    subprocess.run([*told, "-o", path], cwd=ROOT, check=True)
    assert path.stat().st_size < 3_000_000
    found = json.loads(subprocess.run([*told, "--json"], cwd=ROOT, check=True, capture_output=True).stdout)
    assert found["problems"] == [] and len(found["steps"]) == STEPS
    steps = {step["name"]: step for step in found["steps"]}
    assert [attempt["state"] for attempt in steps["checkpoints/quickstart_seed0"]["attempts"]] == ["lost", "committed"]
    sft, dpo = found["trainings"]
    assert sft["metrics"]["loss"]["seconds"][-1] == pytest.approx(sft["summary"]["training_seconds"], rel=0.05)
    assert {"rewards/margins", "rewards/accuracies", "kl", "grad_norm", "lr"} <= dpo["metrics"].keys()
    splits = {one["name"]: one["splits"]["train"] for one in found["datasets"]}
    assert all(sum(split["lengths"]) == split["documents"] and split["samples"] for split in splits.values())
    assert {sample["role"] for sample in splits["tokenized/exclaimed"]["samples"]} == {"chosen", "rejected"}
    groups = [[step["name"] for step in group["steps"]] for group in found["evaluations"]]
    assert groups == [
        ["evaluation/quickstart_base", "evaluation/quickstart"],
        ["evaluation/quickstart_style", "evaluation/quickstart_dpo"],
    ]
    assert all(group["sample_count"] == 200 and group["samples"] for group in found["evaluations"])
    assert [export["name"] for export in found["exports"]] == ["hf/quickstart", "hf/quickstart_dpo"]
    assert all(check["good"] for export in found["exports"] for check in export["checks"])


def test_killed_and_started_again_it_finishes_what_was_open(store):
    text = (store / "second.txt").read_text()
    ran = set(re.findall(r"^([a-z]\S+) +ran ", text, re.MULTILINE))
    assert {"checkpoints/quickstart_seed0", *AFTER_SFT} <= ran
    assert not ran & {"tokenized/opposites", "mixtures/quickstart", "models/quickstart_base"}
    assert f"{len(ran)} steps run, {STEPS - len(ran)} cached, 0 not finished" in text
    attempt = latest(store, "checkpoints/quickstart_seed0")
    assert attempt.name == "2"
    steps = [json.loads(line)["step"] for line in (attempt / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, *range(10, steps[-1], 10), steps[-1]]
    log = (attempt / ".log").read_text()
    assert not log.strip() or "Traceback" not in log


def test_it_learns_what_was_held_out(store):
    before = json.loads((latest(store, "evaluation/quickstart_base") / "metrics.json").read_text())
    after = json.loads((latest(store, "evaluation/quickstart") / "metrics.json").read_text())
    assert before["exact_match"] <= 0.05 and after["exact_match"] >= 0.8
    assert before["prompts"] == after["prompts"] == 200
    said = (store / "second.txt").read_text()
    assert f"Held-out prompts answered exactly: 0.0% before SFT, {after['exact_match']:.1%} after." in said
    assert f"| marin-sft chat hf/quickstart --prefix {store}\n" in said


def test_it_answers_in_the_preferred_style(store):
    names = ("evaluation/quickstart_style", "evaluation/quickstart_dpo")
    before, after = (json.loads((latest(store, name) / "metrics.json").read_text()) for name in names)
    assert before["prompts"] == after["prompts"] == 200
    assert before["exact_match"] <= 0.05 and after["exact_match"] >= 0.8
    first = json.loads(
        (latest(store, "checkpoints/quickstart_dpo_seed0") / "metrics.jsonl").read_text().splitlines()[0]
    )
    assert first["loss/sigmoid"] == pytest.approx(np.log(2), abs=1e-6)


def test_held_out_prompts_are_not_in_training(store):
    import gzip

    def questions(pattern: str) -> set[str]:
        rows = [json.loads(line) for file in store.glob(pattern) for line in gzip.open(file)]
        return {m["content"] for row in rows for m in row["messages"] if m["role"] == "user"}

    for skill in ("opposites", "reversals"):
        train, held_out = (questions(f"documents/{skill}-*/1/{split}/*.gz") for split in ("train", "held_out"))
        assert len(held_out) == 100 and not train & held_out


def test_a_second_run_does_nothing(store):
    assert {action for action, _, _ in actions(store).values()} == {"SKIP"}
    assert f"0 steps run, {STEPS} cached" in run(store)


def test_another_learning_rate_reruns_training_and_what_follows(store):
    plan = actions(store, LEARNING_RATE="0.002")
    rerun = {name: (reason, detail) for name, (action, reason, detail) in plan.items() if action == "RUN"}
    cause = "checkpoints/quickstart_seed0: learning_rate 0.001 -> 0.002"
    assert rerun == {
        "checkpoints/quickstart_seed0": ("CONFIG", "learning_rate 0.001 -> 0.002"),
        **dict.fromkeys(AFTER_SFT, ("UPSTREAM", cause)),
    }


def test_a_forced_tokenization_gives_the_same_tokens_and_stops_there(store):
    text = run(store, "--force_run", '["tokenized/opposites"]')
    assert f"1 step run, {STEPS - 1} cached" in text
    cascade = actions(store, "--force_run", "tokenized/opposites", "--cascade")
    assert {name for name, (action, _, _) in cascade.items() if action == "RUN"} == {
        "tokenized/opposites",
        "mixtures/quickstart",
        "checkpoints/quickstart_seed0",
        *AFTER_SFT,
    }


def test_the_export_answers_in_transformers_as_it_was_scored(store):
    path = latest(store, "hf/quickstart")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    lines = (latest(store, "evaluation/quickstart") / "generations.jsonl").read_text().splitlines()
    for scored in map(json.loads, [*lines[:5], *lines[-5:]]):
        prompt = tokenizer(scored["prompt"], return_tensors="pt", add_special_tokens=False)
        answer = model.generate(**prompt, do_sample=False, max_new_tokens=40)[0, prompt["input_ids"].shape[1] :]
        assert answer[-1] in model.generation_config.eos_token_id, "it stops by itself"
        assert tokenizer.decode(answer, skip_special_tokens=True) == scored["generation"]


def test_the_export_has_the_trained_model_s_logits(store):
    import haliax as hax
    from levanter.layers.attention import AttentionMask

    from marin_sft.training.models.levanter_model import load_model

    ids = np.random.default_rng(0).integers(0, 300, 100)
    exported = transformers.AutoModelForCausalLM.from_pretrained(latest(store, "hf/quickstart"))
    with torch.no_grad():
        theirs = exported(torch.tensor(ids[None])).logits[0].numpy()
    trained = load_model(str(latest(store, "checkpoints/quickstart_seed0") / "model"))
    tokens = hax.named(ids.astype(np.int32), "position")
    ours = trained(tokens, attn_mask=AttentionMask.causal()).array
    np.testing.assert_allclose(theirs, ours, atol=1e-3)
