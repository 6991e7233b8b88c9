"""The training loop: batch, step, log, checkpoint, resume. Knows no loss and no data format."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from marin_sft import progress
from marin_sft.errors import TrainingError
from marin_sft.training import checkpoints, levanter_trainer
from marin_sft.training.checkpoints import Cadence, Checkpoint
from marin_sft.training.metrics_log import Meter, MetricsLog, read_lines


@dataclass(frozen=True)
class StepInput:
    """One step's batch on the devices, and how many tokens it holds over all devices (padding not counted)."""

    batch: Any
    tokens: int
    trained_tokens: int


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How long, where to write, how often. `rows_per_epoch` and `batch_size` only tell the epoch of a step."""

    num_steps: int
    batch_size: int
    rows_per_epoch: int
    output_path: str
    earlier_attempts: tuple[str, ...]
    steps_per_log: int
    steps_per_checkpoint: int | None
    minutes_per_checkpoint: float | None

    def run(self, trainer: Any, state: Any, step_input: Callable[[int], StepInput]) -> Any:
        """Train `state` to `num_steps`, from the newest earlier checkpoint if there is one; the final state.

        `step_input(i)` is the batch of step i, from 0; it must depend on i only, so that a resume sees the same data.
        `state` is consumed.

        Raises:
            TrainingError: for a checkpoint that cannot be restored, or a loss or gradient that is not finite.
        """
        start = checkpoints.newest((self.output_path, *self.earlier_attempts))
        state, meter, lines = _restore(start, state, trainer)
        log = MetricsLog(self.output_path, lines, writes=jax.process_index() == 0)
        cadence = Cadence(self.steps_per_checkpoint, self.minutes_per_checkpoint)
        for step in range(int(state.step), self.num_steps):
            this = step_input(step)
            info = trainer.train_step(state, this.batch)
            state, done = info.state, step + 1
            meter.add(this.tokens, this.trained_tokens)
            _check_finite(info.loss, levanter_trainer.grad_norm(state), done, self.output_path)
            if done == 1 or done % self.steps_per_log == 0 or done == self.num_steps:
                self._log(log, done, info.loss, state, meter)
            if done < self.num_steps and _agreed(cadence.due(done)):
                log.flush()
                self._checkpoint(state, done, meter)
                cadence.reset()
        log.close()
        return state

    def _log(self, log: MetricsLog, step: int, loss: float, state: Any, meter: Meter) -> None:
        metrics = {
            "step": step,
            "epoch": step * self.batch_size / self.rows_per_epoch,
            "loss": loss,
            "lr": levanter_trainer.learning_rate(state),
            "grad_norm": levanter_trainer.grad_norm(state),
            **meter.counters(),
            "tokens_per_second": meter.tokens_per_second(),
        }
        log.add(metrics)
        shown = {name: metrics[name] for name in ("loss", "tokens_per_second")}
        progress.report(step, self.num_steps, "steps", **shown)

    def _checkpoint(self, state: Any, step: int, meter: Meter) -> None:
        path = checkpoints.checkpoint_path(self.output_path, step)
        if jax.process_index() == 0:
            checkpoints.write_counters(path, meter.counters())
        levanter_trainer.save_state(path, state, step)
        if jax.process_index() == 0:
            checkpoints.remove(self.output_path, keep_step=step)


def _restore(start: Checkpoint | None, state: Any, trainer: Any) -> tuple[Any, Meter, list[str]]:
    if start is None:
        return state, Meter(), []
    state = levanter_trainer.load_state(start.path, state, trainer)
    return state, Meter(**checkpoints.read_counters(start.path)), read_lines(start.output_path, start.step)


def _check_finite(loss: float, grad_norm: float, step: int, output_path: str) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    raise TrainingError(
        f"loss {loss}, gradient norm {grad_norm} at step {step}: expected finite numbers. "
        f"{output_path}/metrics.jsonl shows how it came; try a lower learning_rate, more warmup, or precision='fp32'"
    )


def _agreed(due: bool) -> bool:
    """What process 0 says: clocks differ between hosts, and a checkpoint is written by all of them together."""
    if jax.process_count() == 1:
        return due
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(jax.numpy.asarray(due)))
