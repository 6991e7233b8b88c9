"""A sweep at the size of a laptop: the quickstart's data and base model, four learning rates with three batch sizes,
and the best of the twelve as a model. About three minutes on two cores.

    python experiments/quickstart_sweep.py                       # data, base model and mixture are made once
    python experiments/quickstart_sweep.py --dry_run             # all points in one plan
    python experiments/quickstart_sweep.py --max_concurrent 1    # one training at a time
    marin-sft report -o report.html                              # the points as a table and as charts
"""

from experiments.quickstart import SEQ_LEN, base_model, tokenized
from marin_sft import CpuConfig, Run, executor_main
from marin_sft.steps import mixture, sft, sweep

blend = mixture(
    "quickstart_sweep",
    tokenized,
    weights={"opposites": 0.6, "reversals": 0.4},
    seq_len=SEQ_LEN,
    validation_fraction=0.05,
)
trained = sft(
    "quickstart_sweep",
    mixture=blend,
    base_model=base_model,
    train_batch_size=16,
    num_train_epochs=0.25,
    learning_rate=0.001,
    steps_per_eval=1000,  # and after the last step
    precision="fp32",
    gradient_checkpointing=False,
    resources=CpuConfig(cpus=1),
)
points = sweep(
    trained,
    over={"learning_rate": [0.0003, 0.001, 0.003, 0.01], "train_batch_size": [4, 8, 16]},
    name="quickstart_sweep",
    metric="validation/loss",
)
best = points.best()


def report(run: Run) -> None:
    points.print_results(run)
    if run.results and (path := run.output_path(best)):
        print(f"\nThe best point: {path}\nChat with it: marin-sft chat {path}")


if __name__ == "__main__":
    report(executor_main(steps=[points.table, best], description="Learning rates and batch sizes side by side"))
