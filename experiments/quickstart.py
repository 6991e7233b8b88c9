"""The whole pipeline at the size of a laptop: two generated chat datasets, a tokenizer, a random base model,
tokenization, a weighted mixture, SFT, export to Hugging Face format, and an evaluation before and after. Then a short
DPO of that model, and the share of answers in the preferred style before and after.

    python experiments/quickstart.py                       # runs what has not run yet
    python experiments/quickstart.py --dry_run             # what would run, and why
    LEARNING_RATE=0.002 python experiments/quickstart.py   # another learning rate: reruns only training and later steps
"""

import json
import os
from pathlib import Path

from experiments.quickstart_data import exclaimed_preferences, quickstart_dataset
from marin_sft import CpuConfig, Run, executor_main
from marin_sft.steps import dpo, evaluate, export, mixture, random_model, sft, tokenize, train_tokenizer
from marin_sft.training.models import Qwen3Config

SEQ_LEN = 128
WHOLE_MACHINE = CpuConfig(cpus=os.cpu_count() or 1)

opposites = quickstart_dataset("opposites")
reversals = quickstart_dataset("reversals")
held_out = {"opposites": opposites / "held_out/*.jsonl.gz", "reversals": reversals / "held_out/*.jsonl.gz"}

tokenizer = train_tokenizer(
    "quickstart", [opposites / "train/*.jsonl.gz", reversals / "train/*.jsonl.gz"], vocab_size=512
)
base_model = random_model(
    "quickstart_base",
    Qwen3Config(
        max_seq_len=SEQ_LEN,
        hidden_dim=128,
        intermediate_dim=384,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
    ),
    tokenizer=tokenizer,
)

tokenized = {
    "opposites": tokenize("opposites", opposites / "train/*.jsonl.gz", tokenizer=tokenizer),
    "reversals": tokenize("reversals", reversals / "train/*.jsonl.gz", tokenizer=tokenizer),
}
blend = mixture("quickstart", tokenized, weights={"opposites": 0.6, "reversals": 0.4}, seq_len=SEQ_LEN)

trained = sft(
    "quickstart",
    mixture=blend,
    base_model=base_model,
    train_batch_size=16,
    num_train_epochs=3,
    learning_rate=float(os.environ.get("LEARNING_RATE", "0.001")),
    precision="fp32",
    steps_per_checkpoint=50,
    gradient_checkpointing=False,
    resources=WHOLE_MACHINE,
)

exported = export("quickstart", trained)

before = evaluate("quickstart_base", base_model, held_out, max_new_tokens=16)
after = evaluate("quickstart", exported, held_out, max_new_tokens=16)

exclaimed = exclaimed_preferences([opposites, reversals])
preferred = {"preferred": exclaimed / "held_out/*.jsonl.gz"}
pairs = {"exclaimed": tokenize("exclaimed", exclaimed / "train/*.jsonl.gz", tokenizer=tokenizer)}

aligned = dpo(
    "quickstart_dpo",
    mixture=mixture("exclaimed", pairs, weights={"exclaimed": 1}, seq_len=SEQ_LEN),
    base_model=exported,
    train_batch_size=32,
    num_train_epochs=2,
    learning_rate=float(os.environ.get("DPO_LEARNING_RATE", "0.0002")),
    loss_type={"sigmoid": 1.0, "sft": 1.0},  # the second keeps the rest of the answer as it was
    beta=0.1,
    precision="fp32",
    gradient_checkpointing=False,
    resources=WHOLE_MACHINE,
)
aligned_export = export("quickstart_dpo", aligned)

style_before = evaluate("quickstart_style", exported, preferred, max_new_tokens=16)
style_after = evaluate("quickstart_dpo", aligned_export, preferred, max_new_tokens=16)


def report(run: Run) -> None:
    """Print the scores. Nothing after a dry run."""
    paths = [run.output_path(step, "metrics.json") for step in (before, after, style_before, style_after)]
    if not run.results or not all(paths):
        return
    prefix = run.plan.store.prefix
    at = "" if prefix == os.path.abspath("store") else f" --prefix {prefix}"
    scores = [json.loads(Path(path).read_text())["exact_match"] for path in paths if path]
    print(
        f"\nHeld-out prompts answered exactly: {scores[0]:.1%} before SFT, {scores[1]:.1%} after.\n"
        f"Answered exactly, and in the style that DPO prefers: {scores[2]:.1%} before DPO, {scores[3]:.1%} after.\n"
        f"The models, in Hugging Face format: {run.output_path(exported)}\n"
        f"                              and: {run.output_path(aligned_export)}\n"
        "Next:\n"
        f"  echo 'Give the opposite of each word: light, open, young.' | marin-sft chat hf/quickstart{at}\n"
        "  LEARNING_RATE=0.002 python experiments/quickstart.py --dry_run\n"
        """  python experiments/quickstart.py --force_run '["tokenized/opposites"]'"""
    )


if __name__ == "__main__":
    steps = [before, after, style_before, style_after]
    report(executor_main(steps=steps, description="A small chat model, from made-up data to scored exports"))
