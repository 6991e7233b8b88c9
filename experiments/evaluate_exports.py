"""Exports evaluated while their training goes on: the quickstart's SFT, with a table of results by training step and
the best export as a step.

    python experiments/evaluate_exports.py             # training keeps all cores but one, which evaluations use
    python experiments/evaluate_exports.py --dry_run   # the plan: each export is evaluated by a step of its own
"""

import os

from experiments.quickstart import base_model, blend, held_out
from marin_sft import CpuConfig, Run, executor_main
from marin_sft.steps import evaluate, evaluate_exports, sft

trained = sft(
    "quickstart_exports",
    mixture=blend,
    base_model=base_model,
    train_batch_size=16,
    num_train_steps=600,
    learning_rate=0.001,
    precision="fp32",
    steps_per_checkpoint=50,
    steps_per_hf_export=100,
    gradient_checkpointing=False,
    resources=CpuConfig(cpus=max(1, (os.cpu_count() or 1) - 1)),
)
scores = evaluate_exports(
    "quickstart",
    trained,
    {"answers": lambda name, model: evaluate(name, model, held_out, max_new_tokens=16)},
    every=200,
    with_base=True,
)
best = scores.best("answers/exact_match")


def report(run: Run) -> None:
    if run.results and (path := run.output_path(best)):
        print(f"\nThe best export: {path}\nChat with it: marin-sft chat {path}")


if __name__ == "__main__":
    report(executor_main(steps=[scores.table, best], description="Exports evaluated while training goes on"))
