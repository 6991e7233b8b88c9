"""The figures of each step of TRL's DPOTrainer on preference pairs, and when it ended; runs in `.peers-trl`.

trl_dpo.py MODEL ROWS OPTIONS REPORT

OPTIONS is a JSON object of `batch_size` (pairs), `seq_len`, `learning_rate`, `beta1`, `beta2`, `max_grad_norm`, and
`cases`: by name, `steps` and more fields of TRL's DPOConfig. REPORT: by case, lists of figures by step.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class Ends(TrainerCallback):
    """When steps ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())


class Recording(DPOTrainer):
    """Keeps exact figures, which TRL rounds in its log: losses of micro-batches, which add up per step, and means."""

    def __init__(self, **arguments: Any) -> None:
        self.losses: list[float] = []
        self.others: list[dict[str, float]] = []
        self.reference_seconds = 0.0
        super().__init__(**arguments)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.item())
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            means = {name: sum(values) / len(values) for name, values in self._metrics["train"].items()}
            self.others.append({**means, "grad_norm": logs["grad_norm"]})
        super().log(logs, *args, **kwargs)

    def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Dataset:
        begun = time.perf_counter()
        dataset = super()._precompute_ref_logps(*args, **kwargs)
        self.reference_seconds = time.perf_counter() - begun
        return dataset


def run(model: str, rows: Dataset, options: dict[str, Any], case: dict[str, Any], output: str) -> dict[str, Any]:
    fields = dict(case)
    micro_batch = fields.pop("per_device_train_batch_size", options["batch_size"])
    config = DPOConfig(
        output_dir=output,
        max_steps=fields.pop("steps"),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=options["batch_size"] // micro_batch,
        learning_rate=options["learning_rate"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        adam_beta1=options["beta1"],
        adam_beta2=options["beta2"],
        max_grad_norm=options["max_grad_norm"],
        max_length=options["seq_len"],
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        **fields,
    )
    trainer = Recording(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, trust_remote_code=False),
        args=config,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(model, trust_remote_code=False),
        callbacks=[ends := Ends()],
    )
    trainer.train()
    parts = options["batch_size"] // micro_batch
    found: dict[str, Any] = {name: [line[name] for line in trainer.others] for name in trainer.others[0]}
    found["loss"] = [sum(trainer.losses[i : i + parts]) for i in range(0, len(trainer.losses), parts)]
    return {**found, "ended": ends.times, "reference_seconds": trainer.reference_seconds}


def main(model: str, rows: str, options: str, report: str) -> None:
    given = json.loads(options)
    data = Dataset.from_list([json.loads(line) for line in Path(rows).read_text().splitlines()])
    found = {name: run(model, data, given, case, f"{report}.trainer") for name, case in given["cases"].items()}
    Path(report).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
