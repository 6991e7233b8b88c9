"""The losses and gradient norms of TRL's SFTTrainer on chat rows; runs in `.peers-trl`.

trl_sft.py MODEL ROWS OPTIONS REPORT: OPTIONS is a JSON object, see benchmarks/trl_parity.py.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


class Recording(SFTTrainer):
    """Keeps the loss of each micro-batch, which TRL logs rounded: their sum is the loss of the step."""

    losses: list[float] = []

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


def main(model: str, rows: str, options: str, report: str) -> None:
    given = json.loads(options)
    accumulation = given["gradient_accumulation_steps"]
    config = SFTConfig(
        output_dir=f"{report}.trainer",
        max_steps=given["steps"],
        per_device_train_batch_size=given["batch_size"] // accumulation,
        gradient_accumulation_steps=accumulation,
        learning_rate=given["learning_rate"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        adam_beta1=given["beta1"],
        adam_beta2=given["beta2"],
        max_grad_norm=given["max_grad_norm"],
        max_length=given["seq_len"],
        assistant_only_loss=True,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = Recording(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, trust_remote_code=False),
        args=config,
        train_dataset=Dataset.from_list([json.loads(line) for line in Path(rows).read_text().splitlines()]),
        processing_class=AutoTokenizer.from_pretrained(model, trust_remote_code=False),
    )
    trainer.train()
    losses = [sum(trainer.losses[i : i + accumulation]) for i in range(0, len(trainer.losses), accumulation)]
    norms = [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]
    Path(report).write_text(json.dumps({"loss": losses, "grad_norm": norms}))


if __name__ == "__main__":
    main(*sys.argv[1:])
