"""The commands of `marin-sft` that train, which share their flags with the trainers' scripts: sft and dpo."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marin_sft.trainers.trainer import SFTTrainer


def train(method: str, flags: Sequence[str]) -> int:
    """Train as the flags say; returns the exit code. method: "sft" or "dpo"."""
    from marin_sft.trainers import commands  # slow to import, and other commands do not need it

    run = {"sft": commands.sft_command, "dpo": commands.dpo_command}[method]
    return run(flags, commands.dialect_of(flags), f"marin-sft {method}", _write_experiment)


def _write_experiment(trainer: SFTTrainer, path: str) -> None:
    from marin_sft.run import experiment_out  # as in `train`

    experiment_out.check_target(path)
    text = experiment_out.experiment_source(trainer, " ".join(["marin-sft", *sys.argv[1:]]))
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"wrote {path}: python {path} --dry_run shows what it makes")
