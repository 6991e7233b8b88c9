"""The training loop: batch, step, log, checkpoint, resume. Knows no loss and no data format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from marin_sft import progress
from marin_sft.errors import TrainingError
from marin_sft.training import checkpoints, exports, levanter_trainer
from marin_sft.training.checkpoints import Cadence, Checkpoint
from marin_sft.training.metrics_log import Meter, MetricsLog, read_lines
from marin_sft.training.train_step import StepMetrics, without_update


@dataclass(frozen=True)
class StepInput:
    """One step's batch on the devices, and how many tokens it holds over all devices (padding not counted)."""

    batch: Any
    tokens: int | jax.Array
    trained_tokens: int


@dataclass(frozen=True)
class _Dispatched:
    """A step that the devices are at, or done with."""

    step: int
    input: StepInput
    metrics: StepMetrics


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How long, where to write, how often. `examples_per_epoch` and `batch_size` only tell the epoch of a step.

    `identity`: what a checkpoint must have been trained with to go on from it, JSON values by name. `data_digest(i)`:
    a digest of the data of step i, which must be the same when training goes on.
    `check(step, figures)` is called with what is logged for a step, and raises when that cannot be right.
    `export(step, model, metrics)` is called every `steps_per_export` steps and after the last; so is `evaluate(state)`
    every `steps_per_eval`, whose figures are logged with those of the step.
    """

    num_steps: int
    batch_size: int
    examples_per_epoch: int
    output_path: str
    earlier_attempts: tuple[str, ...]
    steps_per_log: int
    steps_per_checkpoint: int | None
    minutes_per_checkpoint: float | None
    identity: Mapping[str, Any]
    data_digest: Callable[[int], str]
    check: Callable[[int, Mapping[str, float]], None] | None = None
    steps_per_export: int | None = None
    export: Callable[[int, Any, Mapping[str, float]], None] | None = None
    steps_per_eval: int | None = None
    evaluate: Callable[[Any], Mapping[str, float]] | None = None

    def run(
        self,
        trainer: Any,
        state: Any,
        take_step: Callable[[Any, Any], tuple[Any, StepMetrics]],
        step_input: Callable[[int], StepInput],
    ) -> Any:
        """Train `state` to `num_steps`, from the newest earlier checkpoint if there is one; the final state.

        `take_step`: see `train_step.step_function`.
        `step_input(i)` is the batch of step i, from 0; it must depend on i only, so that a resume sees the same data.
        A batch without a trained token changes nothing. `state` is consumed.

        The host is one step ahead: it hands out the next step before it waits for the figures of the one before. A
        loss that is not finite stops the run a step late, but no such state is written.

        Raises:
            TrainingError: for a checkpoint that cannot be restored, or a loss or gradient that is not finite.
        """
        start = checkpoints.newest((self.output_path, *self.earlier_attempts))
        if start and jax.process_index() == 0:
            exports.carry_over(start, self.output_path)
        state, meter, lines = self._restore(start, state, trainer)
        log = MetricsLog(self.output_path, lines, writes=jax.process_index() == 0)
        cadence = Cadence(self.steps_per_checkpoint, self.minutes_per_checkpoint)
        under_way: _Dispatched | None = None
        for step in range(int(state.step), self.num_steps):
            this, done = step_input(step), step + 1
            state, metrics = take_step(state, this.batch) if this.trained_tokens else without_update(state)
            if under_way:
                self._settle(under_way, log, meter)
            under_way = _Dispatched(done, this, metrics)
            exports_now = self.export and self.steps_per_export and done % self.steps_per_export == 0
            evaluates_now = self.steps_per_eval and (done % self.steps_per_eval == 0 or done == self.num_steps)
            checkpoints_now = done < self.num_steps and _agreed(cadence.due(done))
            if not (exports_now or evaluates_now or checkpoints_now or done == self.num_steps):
                continue
            evaluated = self.evaluate(state) if self.evaluate and evaluates_now else {}
            loss, under_way = self._settle(under_way, log, meter, evaluated), None
            _require_finite_state(state, done)
            # Before the checkpoint: what a resumed attempt takes over from this one is complete.
            if self.export and self.steps_per_export and (exports_now or done == self.num_steps):
                self.export(done, state.model, {"step": done, "loss": loss, **meter.counters()})
            if checkpoints_now:
                log.flush()
                self._checkpoint(state, done, meter)
                cadence.reset()
        log.close()
        return state

    def _settle(
        self, dispatched: _Dispatched, log: MetricsLog, meter: Meter, evaluated: Mapping[str, float] | None = None
    ) -> float:
        """Wait for a step, count it, and log it if it is time or it was `evaluated`; its loss."""
        step, this = dispatched.step, dispatched.input
        loss, grad_norm, learning_rate = (float(figure) for figure in dispatched.metrics[:3])
        meter.add(int(this.tokens), this.trained_tokens)
        _require_finite(loss, grad_norm, step, self.output_path)
        if step == 1 or step % self.steps_per_log == 0 or step == self.num_steps or evaluated:
            metrics = {
                "step": step,
                "epoch": step * self.batch_size / self.examples_per_epoch,
                "loss": loss,
                "lr": learning_rate,
                "grad_norm": grad_norm,
                **{name: float(figure) for name, figure in dispatched.metrics.figures.items()},
                **meter.counters(),
                "tokens_per_second": meter.tokens_per_second(),
                **(evaluated or {}),
            }
            if self.check:
                self.check(step, metrics)
            log.add(metrics)
            shown = {name: metrics[name] for name in ("loss", "tokens_per_second")}
            progress.report(step, self.num_steps, "steps", **shown)
        return loss

    def _checkpoint(self, state: Any, step: int, meter: Meter) -> None:
        levanter_trainer.save_state(checkpoints.checkpoint_path(self.output_path, step), state, step)
        if jax.process_index() == 0:
            about = {
                "counters": meter.counters(),
                "identity": dict(self.identity),
                "data_digest": self.data_digest(step - 1),
            }
            checkpoints.finish(self.output_path, step, about)
            checkpoints.remove(self.output_path, keep=checkpoints.KEPT)

    def _restore(self, start: Checkpoint | None, state: Any, trainer: Any) -> tuple[Any, Meter, list[str]]:
        if start is None:
            return state, Meter(), []
        self._require_same_run(start)
        state = levanter_trainer.load_state(start.path, state, trainer)
        return state, Meter(**start.about["counters"]), read_lines(start.output_path, start.step)

    def _require_same_run(self, start: Checkpoint) -> None:
        before, now = start.about["identity"], self.identity
        changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        differences = [f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in changed]
        if start.about["data_digest"] != self.data_digest(start.step - 1):
            differences.append(f"the data of step {start.step} are not the same")
        if differences:
            raise TrainingError(
                f"cannot go on from {start.path}: {'; '.join(differences)}; undo the change, or start over with "
                "--force_run"
            )


def _require_finite(loss: float, grad_norm: float, step: int, output_path: str) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    raise TrainingError(
        f"loss {loss}, gradient norm {grad_norm} at step {step} (batch {step - 1}): expected finite numbers. "
        f"{output_path}/metrics.jsonl shows how it came; try a lower learning_rate, more warmup, or precision='fp32'"
    )


def _require_finite_state(state: Any, step: int) -> None:
    """A finite loss is of the weights before the step; what is written are those after it."""
    if not levanter_trainer.all_finite(state):
        raise TrainingError(
            f"weights or optimizer state are not finite after step {step} (batch {step - 1}): try a lower "
            "learning_rate or more warmup"
        )


def _agreed(due: bool) -> bool:
    """What process 0 says: clocks differ between hosts, and a checkpoint is written by all of them together."""
    if jax.process_count() == 1:
        return due
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(jax.numpy.asarray(due)))
