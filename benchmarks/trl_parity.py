"""Compares the first losses and gradient norms of our SFT with TRL's, on the same checkpoint, rows and hyperparameters.

python benchmarks/trl_parity.py [--steps 8]

Both tokenize the rows themselves, with the chat template of the checkpoint, and train on the assistant's tokens: fp32,
AdamW without decay (TRL decays embeddings, we do not), constant rate, clipped gradients, rows in order, two
micro-batches a step. Exits with 1 if a loss differs by more than 1e-4.
`make peers-trl` builds `.peers-trl`, in which TRL runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from parity import FAMILIES, WORDS, require_trl, run_trl, verdict, write_model, write_rows

OPTIONS = {
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "seq_len": 64,
    "learning_rate": 3e-3,
    "beta1": 0.9,
    "beta2": 0.95,
    "max_grad_norm": 0.5,
}
Figures = dict[str, list[float]]


def chat_rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    roles = ("user", "assistant")
    dialogues = [
        [" ".join(rng.choice(WORDS, rng.integers(2, 12))) for _ in range(2 * rng.integers(1, 3))] for _ in range(count)
    ]
    return [
        {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]} for turns in dialogues
    ]


def ours(folder: Path, model: str, options: dict[str, Any]) -> Figures:
    from marin_sft.data.data_configs import lm_mixture_data_config
    from marin_sft.data.mixture import MixtureConfig, mixture
    from marin_sft.data.tokenize import TokenizeConfig, tokenize
    from marin_sft.training.sft import sft as run
    from marin_sft.training.sft_config import SFTConfig

    tokenized = {"chat": f"{model}-tokenized"}
    tokenize(TokenizeConfig((str(folder / "rows.jsonl"),), model, output_path=tokenized["chat"]))
    data = lm_mixture_data_config(tokenized, {"chat": 1}, pack=False, shuffle=False)
    mixture(MixtureConfig(data, options["seq_len"], output_path=f"{model}-mixture"))
    config = SFTConfig(
        mixture=f"{model}-mixture",
        tokenized=tokenized,
        base_model=model,
        output_path=f"{model}-trained",
        earlier_attempts=(),
        train_batch_size=options["batch_size"],
        per_device_parallelism=options["batch_size"] // options["gradient_accumulation_steps"],
        num_train_steps=options["steps"],
        learning_rate=options["learning_rate"],
        beta1=options["beta1"],
        beta2=options["beta2"],
        max_grad_norm=options["max_grad_norm"],
        lr_schedule="constant",
        warmup=0.0,
        precision="fp32",
        steps_per_log=1,
    )
    run(config)
    lines = [json.loads(line) for line in Path(config.output_path, "metrics.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines] for name in ("loss", "grad_norm")}


def print_figures(family: str, mine: Figures, theirs: Figures) -> float:
    """Print both columns, step by step, and return the largest difference of losses."""
    print(f"\n{family:<10} {'ours':>10} {'TRL':>10} {'difference':>10}   gradient norm {'ours':>8} {'TRL':>8}")
    differences = []
    columns = (mine["loss"], theirs["loss"], mine["grad_norm"], theirs["grad_norm"])
    for step, (loss, other, norm, other_norm) in enumerate(zip(*columns, strict=True), start=1):
        differences.append(abs(loss - other))
        print(f"step {step:<5} {loss:>10.6f} {other:>10.6f} {differences[-1]:>10.1e} {norm:>24.5f} {other_norm:>8.5f}")
    return max(differences)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    options = {**OPTIONS, "steps": parser.parse_args().steps}
    require_trl()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = folder / "rows.jsonl"
        write_rows(rows, chat_rows(options["steps"] * options["batch_size"]))
        worst = 0.0
        for family in FAMILIES:
            model = write_model(folder, family)
            theirs = run_trl("trl_sft.py", model, str(rows), json.dumps(options))
            worst = max(worst, print_figures(family, ours(folder, model, options), theirs))
    return verdict(worst, "losses")


if __name__ == "__main__":
    sys.exit(main())
