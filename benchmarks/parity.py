"""What the comparisons with TRL share: a tiny random checkpoint with its tokenizer, and runs of the peers' scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TRL_PYTHON = HERE.parent / ".peers-trl/bin/python"
TOLERANCE = 1e-4
WORDS = [f"w{i}" for i in range(200)]
FAMILIES = ("Llama", "Qwen3")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_model(folder: Path, family: str) -> str:
    """Path of a random model of one of FAMILIES, in float32, whose tokenizer knows WORDS."""
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


def run_trl(script: str, *arguments: str) -> Any:
    """The JSON that a script of `peers` writes to the path it is given after `arguments`."""
    report = Path(arguments[0]).with_suffix(".trl.json")
    command = [str(TRL_PYTHON), str(HERE / "peers" / script), *arguments, str(report)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stdout}")
    return json.loads(report.read_text())


def require_trl() -> None:
    if not TRL_PYTHON.exists():
        sys.exit(f"no {TRL_PYTHON}, in which TRL runs; build it with `make peers-trl`")


def verdict(worst: float, of_what: str) -> int:
    """Print whether it holds, and return the exit code."""
    holds = worst <= TOLERANCE
    print(f"\nlargest difference of {of_what} {worst:.1e}, allowed {TOLERANCE:.0e}: {'ok' if holds else 'FAILED'}")
    return 0 if holds else 1
