"""The training loop: batch, step, log, checkpoint, resume. Knows no loss and no data format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from marin_sft.data.batches.epochs import Epochs
from marin_sft.errors import TrainingError
from marin_sft.training import checkpoints, exports, levanter_trainer
from marin_sft.training.checkpoints import Checkpoint
from marin_sft.training.metrics.meter import Amount, Meter
from marin_sft.training.metrics.reporting import Report
from marin_sft.training.metrics.throughput import Throughput
from marin_sft.training.metrics.weight_distribution import weight_distribution
from marin_sft.training.restore import restored
from marin_sft.training.stops import TimeLimit
from marin_sft.training.train_config import TrainingSettings
from marin_sft.training.train_step import StepMetrics, without_update

_WHAT_IS_KEPT = {"hf_exports_kept", "save_optimizer_state"}  # no part of what is trained


@dataclass(frozen=True)
class StepInput:
    """One step's batch on the devices; how many tokens its rows hold over all devices, if not those that are `computed`
    with; and how many a row has room for. Padding is not counted."""

    batch: Any
    tokens: int | None
    trained_tokens: int
    computed: int | jax.Array
    row_length: int


@dataclass(frozen=True)
class _Dispatched:
    """A step that the devices are at, or done with."""

    step: int
    input: StepInput
    metrics: StepMetrics


@dataclass(frozen=True, kw_only=True)
class Loop:
    """`settings`: how often to log, to checkpoint, and the like. `epochs` only tell how far it is, and how fast.
    `example_name`: see `Objective`. `about`: plain settings of the run, for trackers.

    `identity`: what a checkpoint must have been trained with to go on from it, JSON values by name. `data_digest(i)`:
    a digest of the data of step i, which must be the same when training goes on.
    `check(step, figures)` is called with what is logged for a step, and raises when that cannot be right.
    `export(step, model, metrics)` is called every `steps_per_export` steps and after the last; so is `evaluate(state)`
    every `steps_per_eval`, whose figures are logged with those of the step, and can end training, see `EarlyStopping`.
    `of_loss(loss)` gives figures that follow from a step's loss.
    """

    settings: TrainingSettings
    num_steps: int
    epochs: Epochs
    output_path: str
    earlier_attempts: tuple[str, ...]
    about: Mapping[str, Any]
    identity: Mapping[str, Any]
    data_digest: Callable[[int], str]
    throughput: Throughput
    example_name: str | None = None
    check: Callable[[int, Mapping[str, float]], None] | None = None
    of_loss: Callable[[float], Mapping[str, float]] | None = None
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

        The host is one step ahead: it hands out the next step before it reads the figures of the one before. A
        loss that is not finite stops the run a step late, but no such state is written.

        Raises:
            TrainingError: when there are checkpoints and none can be restored, for a loss or gradient that is not
                finite, or when the time is over, with a checkpoint to go on from.
        """
        limit, first_process = self.settings.time_limit(), jax.process_index() == 0
        named = self.settings.resume_from
        attempts = (self.output_path, *self.earlier_attempts, *([named] if named else []))
        state, start = restored(attempts, state, trainer, self._require_same_run)
        if named and start is None:
            raise TrainingError(checkpoints.nothing_to_resume(named))
        if start and first_process:
            exports.carry_over(start, self.output_path)
        report = self.settings.report(
            self.output_path, self.num_steps, start, config=self.about, first_process=first_process
        )
        meter = Meter() if start is None else Meter.of(start.about["meter"])
        try:
            state = self._train(state, take_step, step_input, meter, report, limit)
        except BaseException:
            report.close(None)
            raise
        report.close(meter.summary(self.example_name))
        return state

    def _train(
        self,
        state: Any,
        take_step: Callable[[Any, Any], tuple[Any, StepMetrics]],
        step_input: Callable[[int], StepInput],
        meter: Meter,
        report: Report,
        limit: TimeLimit,
    ) -> Any:
        settings, cadence = self.settings, self.settings.cadence()
        under_way: _Dispatched | None = None
        before: Mapping[str, float] = {}
        if self.evaluate and self.steps_per_eval and settings.eval_on_start and int(state.step) == 0:
            with meter.paused():
                before = {f"before/{name}": figure for name, figure in self.evaluate(state).items()}
        for step in range(int(state.step), self.num_steps):
            this, done = step_input(step), step + 1
            if under_way and jax.default_backend() == "cpu":
                # CPUs give a step its memory when it is handed out, so that two would hold twice as much.
                jax.block_until_ready(under_way.metrics)
            with meter.compiling():
                state, metrics = take_step(state, this.batch) if this.trained_tokens else without_update(state)
            if under_way:
                self._settle(under_way, report, meter, before if under_way.step == 1 else None)
            under_way, last = _Dispatched(done, this, metrics), done == self.num_steps
            if settings.weight_distribution_log_steps and done % settings.weight_distribution_log_steps == 0:
                found = weight_distribution(state.model, settings.weight_distribution_pattern)
                report.add_weights(done, *found)
            exports_now = self.export and self.steps_per_export and done % self.steps_per_export == 0
            evaluates_now = self.steps_per_eval and (done % self.steps_per_eval == 0 or last)
            checkpoints_now = not last and _agreed(cadence.due(done) or limit.over())
            if not (exports_now or evaluates_now or checkpoints_now or last):
                continue
            evaluated: Mapping[str, float] = before if done == 1 else {}
            if self.evaluate and evaluates_now:
                jax.block_until_ready(metrics)
                with meter.paused():
                    evaluated = {**evaluated, **self.evaluate(state)}
            loss, under_way = self._settle(under_way, report, meter, evaluated), None
            with meter.paused():
                _require_finite_state(state, done)
                stops = bool(evaluates_now) and not last and self._stops(done, evaluated, report)
                # Before the checkpoint: what a resumed attempt takes over from this one is complete.
                if self.export and self.steps_per_export and (exports_now or last or stops):
                    self.export(done, state.model, {"step": done, "loss": loss, **meter.counters()})
                    if self.settings.save_optimizer_state:
                        self._save(state, done, exports.export_path(self.output_path, done), meter, report)
                    self._prune_exports()
                if stops:
                    break
                if checkpoints_now:
                    self._checkpoint(state, done, meter, report)
                    cadence.reset()
                    if _agreed(limit.over()):
                        raise TrainingError(self._out_of_time(done))
        return state

    def _settle(
        self, dispatched: _Dispatched, report: Report, meter: Meter, evaluated: Mapping[str, float] | None = None
    ) -> float:
        """Wait for a step, count it, and log it if it is time or it was `evaluated`; its loss."""
        step, this = dispatched.step, dispatched.input
        loss, grad_norm, learning_rate = (float(figure) for figure in dispatched.metrics[:3])
        examples, computed = self.epochs.before(step) - self.epochs.before(step - 1), int(this.computed)
        tokens = computed if this.tokens is None else this.tokens
        meter.add(Amount(tokens, this.trained_tokens, examples, computed))
        _require_finite(loss, grad_norm, step, self.output_path)
        always = step == self.num_steps or bool(evaluated)
        logged, reported = always or self.settings.logs(step), always or self.settings.reports(step)
        if logged or reported:
            speed = meter.latest()
            metrics = {
                "step": step,
                "epoch": self.epochs.before(step) / self.epochs.examples,
                "loss": loss,
                **(self.of_loss(loss) if self.of_loss else {}),
                "lr": learning_rate,
                "grad_norm": grad_norm,
                **{name: float(figure) for name, figure in dispatched.metrics.figures.items()},
                **meter.counters(),
                **speed.figures(self.example_name),
                **(evaluated or {}),
            }
            if self.check:
                self.check(step, metrics)
            mfu = self.throughput.utilisation(speed.of("computed"), this.row_length)
            report.add({**metrics, "mfu": mfu}, logged=logged, reported=reported)
        return loss

    def _stops(self, step: int, evaluated: Mapping[str, float], report: Report) -> bool:
        stopping = self.settings.early_stopping
        if stopping is None:
            return False
        if stopping.metric not in evaluated:
            raise TrainingError(
                f"early_stopping.metric = {stopping.metric!r}: evaluation gives {', '.join(sorted(evaluated))}"
            )
        reason = stopping.reason(report.log.history(stopping.metric))
        if reason is not None and jax.process_index() == 0:
            print(f"early stopping after step {step} of {self.num_steps}: {reason}", flush=True)
        return reason is not None

    def _out_of_time(self, step: int) -> str:
        path = checkpoints.checkpoint_path(self.output_path, step)
        return (
            f"training_time_limit: time is over after step {step} of {self.num_steps}, whose state is kept at {path}; "
            "the same command goes on from there, and training_time_limit gives it as long again"
        )

    def _prune_exports(self) -> None:
        kept = self.settings.hf_exports_kept
        if kept is not None and jax.process_index() == 0:
            exports.prune(self.output_path, kept)

    def _checkpoint(self, state: Any, step: int, meter: Meter, report: Report) -> None:
        self._save(state, step, self.output_path, meter, report)
        if jax.process_index() == 0 and self.settings.checkpoints_kept is not None:
            checkpoints.remove(self.output_path, keep=self.settings.checkpoints_kept)

    def _save(self, state: Any, step: int, directory: str, meter: Meter, report: Report) -> None:
        """Write a checkpoint below `directory`, together with the log up to there where that is another place."""
        trackers = report.state()
        levanter_trainer.save_state(checkpoints.checkpoint_path(directory, step), state, step)
        if directory != self.output_path:
            report.log.copy_to(directory)
        if jax.process_index() == 0:
            about = {
                "meter": meter.state(),
                "identity": dict(self.identity),
                "data_digest": self.data_digest(step - 1),
                "trackers": trackers,
            }
            checkpoints.finish(directory, step, about)

    def _require_same_run(self, start: Checkpoint) -> None:
        before, now = start.about["identity"], self.identity
        counted = sorted({*before, *now} - _WHAT_IS_KEPT)
        changed = [name for name in counted if before.get(name) != now.get(name)]
        differences = [f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in changed]
        if start.about["data_digest"] != self.data_digest(start.step - 1):
            differences.append(f"the data of step {start.step} are not the same")
        if differences:
            otherwise = "start over with --force_run"
            if start.output_path == self.settings.resume_from:
                otherwise = (
                    f"start a new training from its weights: base_model={start.output_path!r} without resume_from"
                )
            raise TrainingError(
                f"cannot go on from {start.path}: {'; '.join(differences)}; undo the change, or {otherwise}"
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
