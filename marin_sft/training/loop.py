"""The training loop: batch, step, log, checkpoint, resume. It knows neither losses nor data formats."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import haliax as hax
import jax
from levanter.models.lm_model import LmHeadModel
from levanter.trainer import Trainer
from levanter.trainer_state import TrainerState

from marin_sft import preemption
from marin_sft.data.batches.epochs import Epochs
from marin_sft.errors import Preempted, TrainingError
from marin_sft.training import checkpoints, exports, levanter_trainer, processes
from marin_sft.training.checkpoint_writer import CheckpointWriter
from marin_sft.training.checkpoints import Cadence, Checkpoint
from marin_sft.training.decisions import Decision, Decisions
from marin_sft.training.metrics.meter import Amount, Meter
from marin_sft.training.metrics.reporting import Report
from marin_sft.training.metrics.throughput import Throughput
from marin_sft.training.metrics.weight_distribution import weight_distribution
from marin_sft.training.models.model_config import Fields
from marin_sft.training.objective import Evaluate
from marin_sft.training.restore import restored
from marin_sft.training.stops import TimeLimit
from marin_sft.training.train_config import TrainingSettings
from marin_sft.training.train_step import StepMetrics, TakeStep, without_update

_WHAT_IS_KEPT = {"hf_exports_kept", "save_optimizer_state", "stop_after"}  # no part of what a step trains


@dataclass(frozen=True)
class StepInput:
    """One step's batch on the devices. Counts are over all devices, without padding.

    tokens: tokens in its rows. None: the same as `computed`.
    trained_tokens: tokens that are trained on.
    computed: tokens that run on the devices.
    attended: see `Amount`.
    row_length: the length of a row.
    """

    batch: Mapping[str, hax.NamedArray]
    tokens: int | None
    trained_tokens: int
    computed: int | jax.Array
    attended: int | jax.Array
    row_length: int


@dataclass(frozen=True)
class _Dispatched:
    """A step that is running on the devices, or done."""

    step: int
    input: StepInput
    metrics: StepMetrics


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A run of `num_steps` steps, or of the first `end` of them.

    settings: how often to log, to checkpoint, etc.
    epochs: only for reporting progress and speed.
    example_name: see `Objective`.
    about: plain settings of the run, for trackers.
    identity: JSON values by name; a checkpoint can only be resumed if it was trained with the same.
    data_digest: data_digest(i) is a digest of the data of step i; it must be the same in a resumed run.
    check: check(step, figures) gets what is logged for a step, and raises if it cannot be right.
    export: export(step, model, metrics) is called every `steps_per_export` steps and after the last.
    evaluate: evaluate(state) is called every `steps_per_eval` steps and after the last. Its figures are logged with
    those of the step, and can end training, see `EarlyStopping`.
    of_loss: of_loss(loss) gives figures that follow from the loss of a step.
    """

    settings: TrainingSettings
    num_steps: int
    end: int
    epochs: Epochs
    output_path: str
    earlier_attempts: tuple[str, ...]
    about: Mapping[str, object]
    identity: Fields
    data_digest: Callable[[int], str]
    throughput: Throughput
    example_name: str | None = None
    check: Callable[[int, Mapping[str, float]], None] | None = None
    of_loss: Callable[[float], Mapping[str, float]] | None = None
    steps_per_export: int | None = None
    export: Callable[[int, LmHeadModel, Mapping[str, float]], None] | None = None
    steps_per_eval: int | None = None
    evaluate: Evaluate | None = None

    def run(
        self,
        trainer: Trainer,
        state: TrainerState,
        take_step: TakeStep,
        step_input: Callable[[int], StepInput],
    ) -> TrainerState:
        """Train `state` to `end`, from the newest earlier checkpoint if there is one. Returns the final state.

        `take_step`: see `train_step.step_function`.
        `step_input(i)`: the batch of step i, from 0. It must depend on i only, so that a resumed run sees the same
        data. A batch without trained tokens changes nothing. `state` is consumed.

        The host runs one step ahead: it dispatches a step before it reads the figures of the one before. So a loss
        that is not finite stops the run one step late, but no such state is written.

        Raises:
            TrainingError: there are checkpoints but none can be restored; a loss or gradient is not finite; or the
                time limit is over, after a checkpoint is written.
            Preempted: the machine is taken away, after a checkpoint is written.
        """
        limit, first_process = self.settings.time_limit(), processes.is_first()
        named = self.settings.resume_from
        attempts = (self.output_path, *self.earlier_attempts, *([named] if named else []))
        state, start = restored(attempts, state, trainer, self._require_same_run)
        if named and start is None:
            raise TrainingError(checkpoints.nothing_to_resume(named))
        if start:
            self._tell_of_other_devices(start)
            processes.by_first(functools.partial(exports.carry_over, start, self.output_path))
        report = self.settings.report(self.output_path, self.end, start, config=self.about, first_process=first_process)
        meter = Meter() if start is None else Meter.of(start.about["meter"])
        try:
            with preemption.told_by_sigterm(), CheckpointWriter(self.output_path) as writer:
                state = self._train(state, take_step, step_input, meter, report, limit, writer)
        except BaseException:
            report.close(None)
            raise
        report.close(meter.summary(self.example_name))
        return state

    def _train(
        self,
        state: TrainerState,
        take_step: TakeStep,
        step_input: Callable[[int], StepInput],
        meter: Meter,
        report: Report,
        limit: TimeLimit,
        writer: CheckpointWriter,
    ) -> TrainerState:
        settings, cadence, decisions = self.settings, self.settings.cadence(), Decisions()
        under_way: _Dispatched | None = None
        before: Mapping[str, float] = {}
        if self.evaluate and self.steps_per_eval and settings.eval_on_start and int(state.step) == 0:
            with meter.paused():
                before = {f"before/{name}": figure for name, figure in self.evaluate(state).items()}
        if int(state.step) == self.end < self.num_steps:  # an attempt was lost between its last step and its end
            self._save(state, self.end, self.output_path, meter, report, writer)
        report.compiles(int(state.step))
        for step in range(int(state.step), self.end):
            this, done = step_input(step), step + 1
            if under_way and jax.default_backend() == "cpu":
                # CPUs allocate a step's memory when it is dispatched: two steps would need twice as much.
                jax.block_until_ready(under_way.metrics)
            with meter.compiling():
                state, metrics = take_step(state, this.batch) if this.trained_tokens else without_update(state)
            if under_way:
                self._settle(under_way, report, meter, before if under_way.step == 1 else None)
            under_way, last = _Dispatched(done, this, metrics), done == self.end
            if settings.weight_distribution_log_steps and done % settings.weight_distribution_log_steps == 0:
                found = weight_distribution(state.model, settings.weight_distribution_pattern)
                report.add_weights(done, *found)
            exports_now = self.export and self.steps_per_export and done % self.steps_per_export == 0
            evaluates_now = self.steps_per_eval and (done % self.steps_per_eval == 0 or last)
            decision = Decision.GO_ON if last else decisions.after(_wish(cadence, limit))
            due = cadence.by_steps(done) or decision != Decision.GO_ON
            checkpoints_now = self.end < self.num_steps if last else due
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
                        self._save(state, done, exports.export_path(self.output_path, done), meter, report, writer)
                        writer.finish()
                    self._prune_exports()
                if stops:
                    break
                if checkpoints_now:
                    self._save(state, done, self.output_path, meter, report, writer, settings.checkpoints_kept)
                    cadence.reset()
                    decisions.forget()
                    self._leave(decision, done, writer)
        return state

    def _settle(
        self, dispatched: _Dispatched, report: Report, meter: Meter, evaluated: Mapping[str, float] | None = None
    ) -> float:
        """Wait for a step and count it. Log it if that is due or it was `evaluated`. Returns its loss."""
        step, this = dispatched.step, dispatched.input
        loss, grad_norm, learning_rate = (float(figure) for figure in dispatched.metrics[:3])
        examples, computed = self.epochs.before(step) - self.epochs.before(step - 1), int(this.computed)
        tokens = computed if this.tokens is None else this.tokens
        meter.add(Amount(tokens, this.trained_tokens, examples, computed, int(this.attended)))
        _require_finite(loss, grad_norm, step, self.output_path)
        always = step == self.end or bool(evaluated)
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
            packed = self.throughput.packed_utilisation(*map(speed.of, ("computed", "trained_tokens", "attended")))
            report.add({**metrics, "mfu": mfu, "mfu_packed": packed}, logged=logged, reported=reported)
        return loss

    def _stops(self, step: int, evaluated: Mapping[str, float], report: Report) -> bool:
        stopping = self.settings.early_stopping
        if stopping is None:
            return False
        if stopping.metric not in evaluated:
            raise TrainingError(
                f"early_stopping.metric = {stopping.metric!r}: expected one of {', '.join(sorted(evaluated))}"
            )
        reason = stopping.reason(report.log.history(stopping.metric))
        if reason is not None and processes.is_first():
            print(f"early stopping after step {step} of {self.num_steps}: {reason}", flush=True)
        return reason is not None

    def _leave(self, decision: Decision, step: int, writer: CheckpointWriter) -> None:
        """Raise what ends this attempt if that was decided, once the state is on disk."""
        if decision < Decision.OUT_OF_TIME:
            return
        writer.finish()
        if decision == Decision.LEAVE:
            raise Preempted(f"the state after step {step} of {self.num_steps} is kept: the machine is taken away")
        path = checkpoints.checkpoint_path(self.output_path, step)
        raise TrainingError(
            f"training_time_limit: time is over after step {step} of {self.num_steps}; its state is kept at {path}. "
            "Run the same command again to continue, for at most training_time_limit"
        )

    def _prune_exports(self) -> None:
        kept = self.settings.hf_exports_kept
        if kept is not None:
            processes.by_first(lambda: exports.prune(self.output_path, kept))

    def _save(
        self,
        state: TrainerState,
        step: int,
        directory: str,
        meter: Meter,
        report: Report,
        writer: CheckpointWriter,
        keep: int | None = None,
    ) -> None:
        """Begin to write a checkpoint below `directory`, and write the log up to there if that is not the attempt's own
        output. `keep`: see `CheckpointWriter`."""
        trackers = report.state()
        if directory != self.output_path:
            report.log.copy_to(directory)
        about = {
            "meter": meter.state(),
            "identity": dict(self.identity),
            "data_digest": self.data_digest(step - 1) if processes.is_first() else None,
            "trackers": trackers,
            "devices": _devices(),
        }
        writer.start(directory, state, step, about, keep)

    def _tell_of_other_devices(self, start: Checkpoint) -> None:
        before, now = start.about.get("devices"), _devices()
        if before is None or before == now or not processes.is_first():
            return
        several = max(before["processes"], now["processes"]) > 1
        there, here = (f" in {_counted(on['processes'], 'process')}" if several else "" for on in (before, now))
        print(
            f"resumes on {_counted(now['devices'], 'device')}{here}; the checkpoint was written on "
            f"{before['devices']}{there}",
            flush=True,
        )

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
                f"cannot resume from {start.path}: {'; '.join(differences)}; undo the change, or {otherwise}"
            )


def _require_finite(loss: float, grad_norm: float, step: int, output_path: str) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    raise TrainingError(
        f"loss {loss}, gradient norm {grad_norm} at step {step} (batch {step - 1}): expected finite numbers. "
        f"{output_path}/metrics.jsonl has the steps before; try a lower learning_rate, more warmup, or precision='fp32'"
    )


def _require_finite_state(state: TrainerState, step: int) -> None:
    """The loss of a step belongs to the weights before it. The weights after it, which are written, may be bad."""
    if not levanter_trainer.all_finite(state):
        raise TrainingError(
            f"weights or optimizer state are not finite after step {step} (batch {step - 1}): try a lower "
            "learning_rate or more warmup"
        )


def _wish(cadence: Cadence, limit: TimeLimit) -> Decision:
    """What this process would do now, besides the checkpoints that are due by steps."""
    if preemption.expected():
        return Decision.LEAVE
    if limit.over():
        return Decision.OUT_OF_TIME
    return Decision.CHECKPOINT if cadence.by_time() else Decision.GO_ON


def _devices() -> dict[str, int]:
    return {"devices": jax.device_count(), "processes": jax.process_count()}


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}{'es' if what.endswith('s') else 's'}"
