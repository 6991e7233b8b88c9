"""The whole pipeline at a size for a laptop: two made-up chat datasets, a tokenizer, a random base model, tokenization,
a weighted mixture, SFT, export to Hugging Face format, and an evaluation before and after.

    python experiments/quickstart.py                       # runs what has not run yet
    python experiments/quickstart.py --dry_run             # what would run, and why
    LEARNING_RATE=0.002 python experiments/quickstart.py   # another learning rate: only training and after runs again
"""

import json
import os
from pathlib import Path

from experiments.quickstart_data import quickstart_dataset
from marin_sft import CpuConfig, Run, executor_main
from marin_sft.steps import evaluate, export, mixture, random_model, sft, tokenize, train_tokenizer
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


def report(run: Run) -> None:
    """What came of it; nothing after a dry run."""
    paths = [run.output_path(step, "metrics.json") for step in (before, after)]
    if not run.results or not all(paths):
        return
    scores = [json.loads(Path(path).read_text())["exact_match"] for path in paths if path]
    print(
        f"\nHeld-out prompts answered exactly: {scores[0]:.0%} before, {scores[1]:.0%} after.\n"
        f"The model, in Hugging Face format: {run.output_path(exported)}\n"
        "Next:\n"
        "  LEARNING_RATE=0.002 python experiments/quickstart.py --dry_run\n"
        """  python experiments/quickstart.py --force_run '["tokenized/opposites"]'"""
    )


if __name__ == "__main__":
    report(executor_main(steps=[before, after], description="A small chat model, from made-up data to a scored export"))
