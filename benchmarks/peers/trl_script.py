"""A script as TRL's users write it, which runs with TRL and with `marin_sft.trl`, which has the same names.

trl_script.py LIBRARY METHOD MODEL ROWS REPORT: LIBRARY is trl or marin_sft.trl; METHOD is sft or dpo. Other settings
have TRL's defaults in both. Writes the logged losses and gradient norms.
"""

import importlib
import json
import sys
from pathlib import Path

from datasets import Dataset


def main(library: str, method: str, model: str, rows: str, report: str) -> None:
    trl = importlib.import_module(library)
    dataset = Dataset.from_list([json.loads(line) for line in Path(rows).read_text().splitlines()])
    config, trainer_class = {"sft": (trl.SFTConfig, trl.SFTTrainer), "dpo": (trl.DPOConfig, trl.DPOTrainer)}[method]
    args = config(
        output_dir=f"{report}.output",
        max_length=64,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        num_train_epochs=2,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = trainer_class(model, args=args, train_dataset=dataset)
    result = trainer.train()
    history = result.history if hasattr(result, "history") else trainer.state.log_history
    lines = [line for line in history if "loss" in line and "grad_norm" in line]
    figures = {name: [float(line[name]) for line in lines] for name in ("loss", "grad_norm", "learning_rate")}
    Path(report).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
