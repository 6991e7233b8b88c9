"""Configs of short SFT runs on a tiny model, and what such a run logged."""

import json
from pathlib import Path

from marin_sft.training.sft_config import SFTConfig


def sft_config(base_model: str, output: Path | str = "unused", *earlier: Path, **changes) -> SFTConfig:
    """For tests that bring their own batches, unless `changes` says where they are. `earlier`: runs to go on from."""
    fields = {
        "mixture": "unused",
        "tokenized": {},
        "train_batch_size": 4,
        "num_train_steps": 4,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "gradient_checkpointing": False,
        "steps_per_log": 1,
        **changes,
    }
    paths = {"output_path": str(output), "earlier_attempts": tuple(map(str, earlier))}
    return SFTConfig(base_model=base_model, **paths, **fields)


def logged(output: Path) -> list[dict]:
    """The lines of its `metrics.jsonl`."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
