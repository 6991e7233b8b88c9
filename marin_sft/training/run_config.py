"""How a training is watched and when it ends: the part of a `TrainConfig` that is about neither model nor data."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.execution.step import execution_only, omitted_when
from marin_sft.training.checks import require, require_pattern
from marin_sft.training.metrics.progress_bar import STYLES
from marin_sft.training.metrics.trackers import TrackerConfig, check_trackers
from marin_sft.training.stops import EarlyStopping, parse_duration


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Counts for a step's identity: early_stopping, which says how often to evaluate, too; max_evaluation_steps, the
    most batches of each validation set (None: all); per_epoch_training_steps, where an epoch is to be so many steps
    (None: as many as the data make); hf_exports_kept, the newest of the exports written while training that stay in the
    output (None: all).

    Does not count: do_eval, False: never evaluate; True: also without held-out data, on training batches
    (`max_evaluation_steps` of them, or 8), and after the last step if `steps_per_eval` says no other; None: where
    there are held-out data.
    training_time_limit: "90min", "23h", "2h30m": after that an attempt writes a checkpoint and fails with the words how
    to go on; None: no limit.
    save_total_limit: checkpoints to resume from that are kept while training; 0: all; None: two. They go once the model
    is written.
    trackers: where metrics go besides metrics.jsonl; progress_bar: a style; see the modules so named in `metrics`.
    track_memory: log peak memory of host and devices, True with each logged step, a number at most every so many
    seconds. weight_distribution_log_steps: how often mean, standard deviation, largest absolute value and histogram of
    each tensor with `weight_distribution_pattern` in its name (see `tensor_names`) go to the trackers; None: never.

    Raises:
        ConfigError: for a value that cannot be used.
    """

    early_stopping: EarlyStopping | None = omitted_when(None, default=None)
    max_evaluation_steps: int | None = omitted_when(None, default=None)
    per_epoch_training_steps: int | None = omitted_when(None, default=None)
    hf_exports_kept: int | None = omitted_when(None, default=None)
    do_eval: bool | None = execution_only(default=None)
    training_time_limit: str | None = execution_only(default=None)
    save_total_limit: int | None = execution_only(default=None)
    trackers: tuple[TrackerConfig, ...] = execution_only(default=())
    progress_bar: str = execution_only(default="rich")
    track_memory: bool | float = execution_only(default=False)
    weight_distribution_log_steps: int | None = execution_only(default=None)
    weight_distribution_pattern: str = execution_only(default=".*")

    def check_run(self, steps_per_eval: int | None, num_train_epochs: float | None) -> None:
        """Raise ConfigError for what cannot be used, also beside these fields of a `TrainConfig`."""
        for field in ("max_evaluation_steps", "per_epoch_training_steps", "hf_exports_kept"):
            require(self, field, getattr(self, field) is None or getattr(self, field) >= 1, "at least 1, or None")
        by_epochs = self.per_epoch_training_steps is None or num_train_epochs is not None
        require(self, "per_epoch_training_steps", by_epochs, "None where num_train_epochs is not given")
        require(self, "save_total_limit", self.save_total_limit is None or self.save_total_limit >= 0, "at least 0")
        require(self, "progress_bar", self.progress_bar in STYLES, f"one of {', '.join(STYLES)}")
        require(self, "track_memory", self.track_memory >= 0, "True, False, or seconds")
        self._check_stops(steps_per_eval)
        self._check_weight_distribution()
        check_trackers(self.trackers)

    def _check_stops(self, steps_per_eval: int | None) -> None:
        if self.training_time_limit is not None:
            parse_duration(self.training_time_limit)
        if self.early_stopping is not None:
            one = steps_per_eval in (None, self.early_stopping.steps)
            require(self, "early_stopping", one, f"steps = {steps_per_eval}, as steps_per_eval, or that to be None")
            require(self, "early_stopping", self.do_eval is not False, "None where do_eval is False")

    def _check_weight_distribution(self) -> None:
        every = self.weight_distribution_log_steps
        require(self, "weight_distribution_log_steps", every is None or every >= 1, "at least 1, or None")
        heard = every is None or bool(self.trackers)
        require(self, "weight_distribution_log_steps", heard, "None without trackers, to which distributions go")
        require_pattern(self, "weight_distribution_pattern", self.weight_distribution_pattern)

    def eval_cadence(self, steps_per_eval: int | None, num_steps: int) -> int | None:
        """Steps between two evaluations; None: never."""
        if self.do_eval is False:
            return None
        if self.early_stopping is not None:
            return self.early_stopping.steps
        return steps_per_eval or (num_steps if self.do_eval else None)
