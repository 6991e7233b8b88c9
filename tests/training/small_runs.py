"""Data and configs of short SFT runs on a tiny model, and what such a run logged."""

import json
from pathlib import Path

import numpy as np

from marin_sft.data.data_configs import lm_mixture_data_config
from marin_sft.data.mixture import MixtureConfig, mixture
from marin_sft.data.tokenize import TokenizeConfig, tokenize
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


def chat_mixture(
    root: Path, tokenizer: str, sizes: dict[str, int], weights: dict[str, float], held_out: int = 0
) -> tuple[str, dict[str, str]]:
    """The outputs of a mixture step and of its tokenize steps: so many dialogues by component, each a row.

    held_out: of each component, for validation.
    """
    rng = np.random.default_rng(0)
    tokenized = {}
    for name, count in sizes.items():
        words = [[f"w{i}" for i in rng.integers(0, 40, 12)] for _ in range(count)]
        rows = [
            {"messages": [{"role": "user", "content": " ".join(some[:3])}, {"role": "assistant", "content": answer}]}
            for some in words
            for answer in [" ".join(some[3:])]
        ]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tokenized[name] = f"{root}/tokenized/{name}"
        tokenize(TokenizeConfig((f"{root}/{name}.jsonl",), tokenizer, output_path=tokenized[name]))
    validation = dict.fromkeys(sizes, held_out) if held_out else {}
    data = lm_mixture_data_config(tokenized, weights, pack=False, num_validation_sequences=validation)
    mixture(MixtureConfig(data, 24, output_path=f"{root}/mixture"))
    return f"{root}/mixture", tokenized


def logged(output: Path) -> list[dict]:
    """The lines of its `metrics.jsonl`."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
