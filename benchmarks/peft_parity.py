"""Compares our LoRA with PEFT's: training losses from the same adapter, and logits of the adapter after our training.

python benchmarks/peft_parity.py [--steps 5]

LoRA, rsLoRA and DoRA on a small Llama and a small Qwen 2, fp32: AdamW, constant rate, clipped gradients, the same rows.
Exits with 1 if a loss or a logit differs by more than 1e-4, or if PEFT gives its tensors other names than we do.
`make peers-peft` builds `.peers-peft`, in which PEFT runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
PYTHON = HERE.parent / ".peers-peft/bin/python"
TOLERANCE = 1e-4
WORDS = [f"w{i}" for i in range(200)]
FAMILIES = ("Llama", "Qwen")
VARIANTS: dict[str, dict[str, Any]] = {
    "LoRA": {"r": 4, "alpha": 8},
    "LoRA, two layers": {"r": 4, "alpha": 8, "target_modules": ["q_proj", "down_proj"]},
    "rsLoRA": {"r": 4, "alpha": 8, "use_rslora": True},
    "DoRA": {"r": 4, "alpha": 8, "use_dora": True},
    "trained tokens": {"r": 4, "alpha": 8, "trainable_tokens": [7, 8, 40]},
}
OPTIONS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "beta1": 0.9,
    "beta2": 0.95,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
}


@dataclass(frozen=True)
class Rows:
    """int[step, row, token], one document per row, as batches for `marin_sft.training.sft.train`."""

    tokens: np.ndarray
    rows_per_epoch: int = 64

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Any:
        from marin_sft.training.fakes import pack

        return pack([[row.tolist()] for row in self.tokens[step]], self.tokens.shape[-1])

    def trained_tokens(self, step: int) -> int:
        return self.batch(step).trained_tokens


def write_model(folder: Path, family: str) -> str:
    from marin_sft.training import models
    from marin_sft.training.fakes import word_tokenizer
    from marin_sft.training.models.random_model import random_model
    from marin_sft.training.models.random_model_config import RandomModelConfig

    word_tokenizer(WORDS).save_pretrained(folder / "tokenizer")
    shape = getattr(models, f"{family}Config")(
        max_seq_len=64, hidden_dim=64, intermediate_dim=128, num_layers=3, num_heads=4, num_kv_heads=2
    )
    path = str(folder / family)
    random_model(RandomModelConfig(model=shape, tokenizer=str(folder / "tokenizer"), output_path=path))
    return path


def write_start(model: str, variant: dict[str, Any], path: Path) -> None:
    """A new adapter for the model."""
    from marin_sft.training.lora_config import LoraConfig
    from marin_sft.training.models import levanter_model, lora, peft_directory
    from marin_sft.training.models.model_directory import ModelDirectory
    from marin_sft.training.models.token_rows import token_ids_of

    config = LoraConfig(**variant)
    adapted = levanter_model.load_model(model, lora=config)
    tensors = lora.adapter_tensors(adapted)
    ids = peft_directory.same_ids(tensors, token_ids_of(adapted))
    path.mkdir(parents=True)
    peft_directory.write_adapter(str(path), peft_directory.Adapter(config, tensors, ids), ModelDirectory(model))


def ours(model: str, start: Path, rows: Rows, output: Path) -> tuple[list[float], np.ndarray]:
    """The losses of training from `start`, and the logits of the first batch afterwards."""
    from marin_sft.training.lora_config import LoraConfig
    from marin_sft.training.models import levanter_model
    from marin_sft.training.sft import train
    from marin_sft.training.sft_config import SFTConfig

    config = SFTConfig(
        mixture="unused",
        tokenized={},
        base_model=model,
        output_path=str(output),
        earlier_attempts=(),
        train_batch_size=rows.tokens.shape[1],
        num_train_steps=len(rows.tokens),
        lr_schedule="constant",
        warmup=0.0,
        precision="fp32",
        steps_per_log=1,
        lora=LoraConfig(adapter_path=str(start)),
        **OPTIONS,
    )
    train(config, rows)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert config.lora is not None
    trained = levanter_model.load_model(model, lora=replace(config.lora, adapter_path=f"{output}/adapter"))
    return [line["loss"] for line in lines], np.asarray(levanter_model.logits(trained, rows.tokens[0]))


def peft(model: str, start: Path, end: Path, rows: Path, report: Path) -> dict[str, np.ndarray]:
    report.mkdir()
    script = HERE / "peers/peft_lora.py"
    command = [str(PYTHON), str(script), model, str(start), str(end), str(rows), json.dumps(OPTIONS), str(report)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stdout}")
    return dict(np.load(report / "figures.npz"))


def stored_names(adapter: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as file:
        return sorted(file.keys())


def compare(folder: Path, model: str, name: str, rows: Rows) -> float:
    """Print the differences, and return the largest."""
    start, output, report = (folder / part for part in ("start", "output", "report"))
    write_start(model, VARIANTS[name], start)
    losses, logits = ours(model, start, rows, output)
    theirs = peft(model, start, output / "adapter", folder.parent / "rows.npy", report)
    differences = {
        "loss": np.abs(np.array(losses) - theirs["losses"]).max(),
        "adapter's logits": np.abs(logits - theirs["adapted"]).max(),
        "merged by PEFT": np.abs(logits - theirs["merged"]).max(),
    }
    same = stored_names(output / "adapter") == stored_names(report / "adapter")
    shown = "  ".join(f"{what} {difference:.1e}" for what, difference in differences.items())
    print(f"{Path(model).name:<6} {name:<17} loss {losses[0]:.4f} -> {losses[-1]:.4f}  {shown}  same names: {same}")
    return max(differences.values()) if same else float("inf")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    steps = parser.parse_args().steps
    if not PYTHON.exists():
        sys.exit(f"no {PYTHON}, in which PEFT runs; build it with `make peers-peft`")
    with tempfile.TemporaryDirectory() as temporary:
        rows = Rows(np.random.default_rng(0).integers(6, len(WORDS), (steps, 4, 24)).astype(np.int32))
        worst = 0.0
        for family in FAMILIES:
            folder = Path(temporary, family)
            folder.mkdir()
            model = write_model(folder, family)
            np.save(folder / "rows.npy", rows.tokens)
            for i, name in enumerate(VARIANTS):
                (folder / str(i)).mkdir()
                worst = max(worst, compare(folder / str(i), model, name, rows))
    holds = worst <= TOLERANCE
    print(f"\nlargest difference {worst:.1e}, allowed {TOLERANCE:.0e}: {'ok' if holds else 'FAILED'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
