"""Runs one script with TRL and with `marin_sft.trl`, and compares the losses and learning rates of every step.

python benchmarks/trl_door.py

The script (peers/trl_script.py) leaves much to the defaults of both: the schedule, AdamW's betas, which tokens are
trained, clipping. TRL logs losses with four digits, so ours are rounded, too. Exits with 1 if a loss differs by more
than 1e-4. `make peers-trl` builds `.peers-trl`, in which TRL runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from parity import FAMILIES, HERE, TRL_PYTHON, WORDS, require_trl, verdict, write_model, write_rows

Figures = dict[str, list[float]]
SCRIPT = HERE / "peers/trl_script.py"


def chats(count: int) -> list[dict[str, Any]]:
    """Dialogues of one or two rounds."""
    rng = np.random.default_rng(0)

    def turns() -> list[dict[str, str]]:
        roles = ("user", "assistant") * int(rng.integers(1, 3))
        return [{"role": role, "content": " ".join(rng.choice(WORDS, rng.integers(2, 9)))} for role in roles]

    return [{"messages": turns()} for _ in range(count)]


def pairs(count: int) -> list[dict[str, Any]]:
    """A prompt with a better and a worse answer."""
    rng = np.random.default_rng(1)

    def turn(role: str) -> list[dict[str, str]]:
        return [{"role": role, "content": " ".join(rng.choice(WORDS, rng.integers(2, 12)))}]

    return [{"prompt": turn("user"), "chosen": turn("assistant"), "rejected": turn("assistant")} for _ in range(count)]


def run(python: str, library: str, method: str, model: str, rows: Path, folder: Path) -> Figures:
    """What the script logs with the library."""
    report = folder / f"{method}-{Path(model).name}-{library}.json"
    environment = {**os.environ, "MARIN_SFT_PREFIX": str(folder / "store"), "PYTHONPATH": str(HERE.parent)}
    command = [python, str(SCRIPT), library, method, model, str(rows), str(report)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}")
    figures: Figures = json.loads(report.read_text())
    return figures


def compared(title: str, mine: Figures, theirs: Figures) -> float:
    """Print all steps, and return the largest difference of losses."""
    print(f"\n{title:<14} {'ours':>8} {'TRL':>8}   gradient norm {'ours':>8} {'TRL':>8}   rate {'ours':>9} {'TRL':>9}")
    names = ("loss", "grad_norm", "learning_rate")
    for step, values in enumerate(zip(*(figures[n] for n in names for figures in (mine, theirs)), strict=True), 1):
        loss, other, norm, other_norm, rate, other_rate = values
        print(
            f"step {step:<9} {loss:>8.4f} {other:>8.4f} {norm:>22.4f} {other_norm:>8.4f}"
            f" {rate:>13.2e} {other_rate:>9.2e}"
        )
    return max(abs(round(a, 4) - b) for a, b in zip(mine["loss"], theirs["loss"], strict=True))


def main() -> int:
    require_trl()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        worst = 0.0
        for method, rows in (("sft", chats(20)), ("dpo", pairs(20))):
            file = folder / f"{method}.jsonl"
            write_rows(file, rows)
            for family in FAMILIES:
                model = write_model(folder, family)
                theirs = run(str(TRL_PYTHON), "trl", method, model, file, folder)
                mine = run(sys.executable, "marin_sft.trl", method, model, file, folder)
                worst = max(worst, compared(f"{method} {family}", mine, theirs))
    return verdict(worst, "losses")


if __name__ == "__main__":
    sys.exit(main())
