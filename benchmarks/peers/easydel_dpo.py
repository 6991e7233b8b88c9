"""Steps of EasyDeL's DPOTrainer on pairs of a prepared folder, on one CPU device; runs in `.peers-easydel`.

easydel_dpo.py REPORT FOLDER cached|online: see benchmarks/ours_dpo.py, whose settings it takes.

EasyDeL pads all prompts to one width and all completions to another, and cuts their sum to `max_length`: prompts that
do not fit next to the longest completion lose their beginning. With a `max_length` that cuts nothing, a step has 1.4
times the columns and takes even longer.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"

import easydel as ed
import jax
import jax.numpy as jnp
from datasets import Dataset
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
from ours_dpo import BATCH_SIZE, LEARNING_RATE, SEQ_LEN, STEPS

WARM = 2
IGNORED = -100


def tokenized(folder: Path, tokenizer: Any) -> list[dict[str, list[int]]]:
    """Pairs in EasyDeL's own columns of tokens. From messages, it would make another end token."""

    def ids(messages: list[dict[str, str]], **options: Any) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    rows = []
    for pair in map(json.loads, (folder / "pairs.jsonl").read_text().splitlines()):
        prompt = ids(pair["prompt"], add_generation_prompt=True)
        row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for side in ("chosen", "rejected"):
            branch = ids(pair["prompt"] + pair[side])
            if branch[: len(prompt)] != prompt:
                sys.exit(f"the {side} branch does not begin with its prompt")
            row[f"{side}_input_ids"] = branch
            row[f"{side}_attention_mask"] = [1] * len(branch)
            row[f"{side}_labels"] = [IGNORED] * len(prompt) + branch[len(prompt) :]
        rows.append(row)
    return rows


def trainer_of(folder: Path, output: str, cached: bool) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"), trust_remote_code=False)
    rows = tokenized(folder, tokenizer)
    prompts = [len(row["prompt_input_ids"]) for row in rows]
    completions = [
        len(row[f"{side}_input_ids"]) - prompt
        for row, prompt in zip(rows, prompts, strict=True)
        for side in ("chosen", "rejected")
    ]
    model = ed.AutoEasyDeLModelForCausalLM.from_pretrained(
        str(folder / "model"),
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        sharding_axis_dims=(1, 1, 1, 1, 1),
        config_kwargs={"gradient_checkpointing": ed.EasyDeLGradientCheckPointers.NONE},
        verbose=False,
        trust_remote_code=False,
    )
    arguments = ed.DPOConfig(
        save_directory=output,
        model_name="peer",
        beta=0.1,
        loss_type="sigmoid",
        max_length=SEQ_LEN,
        max_prompt_length=max(prompts),
        max_completion_length=max(completions),
        precompute_ref_log_probs=cached,
        disable_dropout=True,
        total_batch_size=BATCH_SIZE,
        gradient_accumulation_steps=1,
        num_train_epochs=2,
        max_training_steps=WARM + STEPS,
        shuffle_train_dataset=False,
        learning_rate=LEARNING_RATE,
        scheduler=ed.EasyDeLSchedulers.NONE,
        optimizer=ed.EasyDeLOptimizers.ADAMW,
        weight_decay=0.0,
        clip_grad=1.0,
        extra_optimizer_kwargs={"b1": 0.9, "b2": 0.95},
        warmup_steps=0,
        # Only training: no saves, reports or samples.
        do_last_save=False,
        do_eval=False,
        save_steps=None,
        resume_if_possible=False,
        use_wandb=False,
        performance_mode=True,
        report_metrics=False,
        log_grad_norms=False,
        log_steps=10**9,
        report_steps=10**9,
        track_memory=False,
        weight_distribution_log_steps=0,
        use_esurge_generation=False,
    )
    with model.mesh:  # 0.3.0 needs it to compute the reference, before it sets it
        return ed.DPOTrainer(
            arguments=arguments, model=model, processing_class=tokenizer, train_dataset=Dataset.from_list(rows)
        )


def main(report: str, folder: str, reference: str) -> None:
    with tempfile.TemporaryDirectory() as output:
        begun = time.perf_counter()
        trainer = trainer_of(Path(folder), output, reference == "cached")
        reference_seconds = time.perf_counter() - begun
        take = trainer.sharded_training_step_function
        ended: list[float] = []
        losses: list[float] = []

        def step(*given: Any) -> Any:
            found = jax.block_until_ready(take(*given))
            ended.append(time.perf_counter())
            losses.append(float(found[1].loss))
            return found

        trainer.sharded_training_step_function = step
        trainer.train()
    if len(ended) != WARM + STEPS:
        sys.exit(f"got {len(ended)} steps, expected {WARM + STEPS}")
    seconds = (ended[-1] - ended[WARM - 1]) / STEPS
    found = {"seconds": seconds, "reference_seconds": reference_seconds, "loss": losses}
    Path(report).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
