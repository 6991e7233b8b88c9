"""Run as a script: losses, gradients and logged metrics on the devices that there are, by way to split a batch.

python parallel_runs.py BASE_MODEL OUTPUT
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from marin_sft import progress
from marin_sft.training import levanter_trainer
from marin_sft.training.fakes import FakeBatch, pack
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import levanter_model
from marin_sft.training.optimization import optimizers
from marin_sft.training.sft import SFTObjective, train
from marin_sft.training.sft_config import SFTConfig
from marin_sft.training.train_step import recording, step_function
from tests.training.processes import FASTER_TO_COMPILE

LENGTH = 24
STEPS = 3
# By number of devices: whether documents are packed, and rows of a micro-batch per device (-1: the whole batch).
WAYS = {
    1: [(True, -1), (True, 2), (True, 1), (False, -1), (False, 2)],
    2: [(True, -1), (True, 1), (False, 2)],
    4: [(True, -1), (False, 1)],
}
# How four devices share the work, where they do not all slice the weights, which is what they do above.
MESHES = {
    "data": {"data": 4},
    "tensor and data": {"tensor": 2, "data": -1},
    "sequence and data": {"sequence": 2, "data": 2},
    "dims of EasyDeL": (1, -1, 1, 2, 2),
}


def documents(step: int) -> list[list[int]]:
    """Six documents of very unequal lengths: a mean of means would be another number."""
    rng = np.random.default_rng(step)
    return [rng.integers(4, 47, size).tolist() for size in (2, 17, 5, 11, 3, 9)]


class Batches:
    """The same documents for each step, packed into 4 rows, or a row each in 8 rows, two of them padding."""

    rows_per_epoch = 16

    def __init__(self, packed: bool) -> None:
        self.packed = packed

    def batch(self, step: int, part: int = 0, parts: int = 1) -> FakeBatch:
        a, b, c, d, e, f = documents(step)
        rows = [[a, b], [c, d], [e], [f]] if self.packed else [[a], [b], [c], [d], [e], [f], [], []]
        return pack(rows[part * len(rows) // parts : (part + 1) * len(rows) // parts], LENGTH)

    def trained_tokens(self, step: int) -> int:
        return self.batch(step).trained_tokens


def steps(
    base_model: str, batches: Batches, rows: int, per_device_parallelism: int, mesh: Any = None
) -> dict[str, np.ndarray]:
    """Losses and gradient norms of the steps, and the first gradient: with beta1 = 0, Adam's first moment is it."""
    config = config_for(base_model, "unused", rows, per_device_parallelism)
    config = dataclasses.replace(config, beta1=0.0, max_grad_norm=None)
    settings = levanter_trainer.trainer_config(precision="fp32", seed=0, mesh=mesh)
    layout = levanter_trainer.layout(settings, rows, per_device_parallelism)
    objective = SFTObjective(config, batches, {}, layout)
    optimizer = optax.chain(recording(optax.constant_schedule(0.0)), optimizers.optimizer(config, STEPS))
    trainer = levanter_trainer.build_trainer(settings, optimizer)
    found: dict[str, np.ndarray] = {}
    with trainer:
        model = levanter_model.load_model(base_model, axis_mapping=trainer.parameter_axis_mapping)
        state = levanter_trainer.initial_state(trainer, model, 0)
        take_step = step_function(trainer, objective.loss)
        for i in range(STEPS):
            state, metrics = take_step(state, levanter_trainer.to_devices(trainer, objective.arrays(i, 0, 1)))
            found |= {f"loss {i}": np.asarray(metrics.loss), f"grad_norm {i}": np.asarray(metrics.grad_norm)}
            if i == 0:
                moments = jax.tree_util.tree_leaves(state.opt_state[1][0][0].mu)
                found |= {f"gradient {j}": np.asarray(moment) for j, moment in enumerate(moments)}
    return found


def config_for(base_model: str, output: str, rows: int, per_device_parallelism: int, **changes) -> SFTConfig:
    return SFTConfig(
        mixture="unused",
        tokenized={},
        base_model=base_model,
        output_path=output,
        earlier_attempts=(),
        train_batch_size=rows,
        num_train_steps=STEPS,
        learning_rate=1e-2,
        max_grad_norm=0.5,
        precision="fp32",
        steps_per_log=1,
        per_device_parallelism=per_device_parallelism,
        **changes,
    )


def start(base_model: str, output: Path, *, devices: int) -> subprocess.Popen:
    """This script in a process of its own, with so many devices."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {FASTER_TO_COMPILE}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.Popen([sys.executable, __file__, base_model, str(output)], env=environment)


def ended_in_the_middle(base_model: str, output: Path, earlier: Path | None) -> None:
    """Train, but end before the last step is done; with `earlier`, go on from that output to the end."""
    attempts = () if earlier is None else (f"{earlier}/logged",)
    config = config_for(base_model, f"{output}/logged", 4, 1, steps_per_checkpoint=1)

    def end_before_the_last(update: progress.Progress) -> None:
        if update.done == STEPS and earlier is None:
            raise InterruptedError

    with progress.listening(end_before_the_last), contextlib.suppress(InterruptedError):
        train(dataclasses.replace(config, earlier_attempts=attempts), Batches(packed=True))


def main(base_model: str, output: str) -> None:
    ways = WAYS[jax.device_count()]
    for packed, per_device in ways:
        way = f"{'packed' if packed else 'unpacked'} {per_device}"
        np.savez(f"{output}/{way}.npz", **steps(base_model, Batches(packed), 4 if packed else 8, per_device))
    if jax.device_count() == 4:
        for name, mesh in MESHES.items():
            np.savez(f"{output}/{name}.npz", **steps(base_model, Batches(packed=True), 4, -1, mesh))
    packed, per_device = ways[-1]
    train(config_for(base_model, f"{output}/logged", 4 if packed else 8, per_device), Batches(packed))
    adapter = LoraConfig(r=2, alpha=4, use_dora=True, trainable_tokens=[5, 6])
    train(config_for(base_model, f"{output}/lora", 4, -1, lora=adapter), Batches(packed=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
