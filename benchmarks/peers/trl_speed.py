"""Steps of TRL's SFTTrainer on chat rows of a prepared folder; runs in `.peers-trl`.

trl_speed.py REPORT FOLDER ROWS.jsonl STEPS WARM SETTING OPTIONS: SETTING is "padded", a batch of dialogues padded to
the longest, or "packed", rows packed by best fit without padding, or one of these with " by 1" after it: one dialogue
or row at a time, gradients summed up. OPTIONS a JSON object, see benchmarks/sft.py.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended.append(time.perf_counter())


class Counting(SFTTrainer):
    """Counts the tokens of the batch of each step, at the cost of a sum over its masks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokens: list[int] = []
        self.trained: list[int] = []

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        mask = inputs.get("attention_mask")
        self.tokens.append(int(inputs["input_ids"].numel() if mask is None else mask.sum()))
        self.trained.append(int((inputs["labels"] != -100).sum()))
        return super().training_step(model, inputs, *args, **kwargs)


def main(report: str, folder: str, rows: str, steps: str, warm: str, setting: str, options: str) -> None:
    given, first, count = json.loads(options), int(warm), int(warm) + int(steps)
    packed = setting.startswith("packed")
    batch = given["rows"] if packed else given["dialogues"]
    parts = batch if setting.endswith("by 1") else 1
    config = SFTConfig(
        output_dir=f"{report}.trainer",
        max_steps=count,
        per_device_train_batch_size=batch // parts,
        gradient_accumulation_steps=parts,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        max_length=given["seq_len"],
        packing=packed,
        packing_strategy="bfd",
        assistant_only_loss=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    clock = Clock()
    trainer = Counting(
        AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype=torch.float32, trust_remote_code=False),
        args=config,
        train_dataset=Dataset.from_list([json.loads(line) for line in Path(rows).read_text().splitlines()]),
        processing_class=AutoTokenizer.from_pretrained(f"{folder}/model", trust_remote_code=False),
        callbacks=[clock],
    )
    trainer.train()
    figures = {
        "seconds": (clock.ended[-1] - clock.ended[first - 1]) / int(steps),
        "tokens": sum(trainer.tokens[first * parts :]) / int(steps),
        "trained_tokens": sum(trainer.trained[first * parts :]) / int(steps),
    }
    Path(report).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
