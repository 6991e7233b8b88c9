"""Where the metrics of a run go: metrics.jsonl, the trackers, and the progress bar."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from marin_sft.arguments import part_of_config
from marin_sft.execution.step import execution_only
from marin_sft.training.checkpoints import Checkpoint
from marin_sft.training.checks import require, require_one_of, require_pattern
from marin_sft.training.metrics.memory import MemoryWatch
from marin_sft.training.metrics.metrics_log import NAME, SUMMARY, MetricsLog, read_lines
from marin_sft.training.metrics.progress_bar import STYLES, ProgressBar
from marin_sft.training.metrics.tracker import Histograms, TrackerConfig
from marin_sft.training.metrics.trackers import Trackers, check_trackers
from marin_sft.training.models.model_config import Fields

LOG = (NAME, SUMMARY, f"*/{NAME}", "tensorboard/*", "wandb/*")
"""Files of a training's output that hold speeds and times: no two runs write the same ones."""


@part_of_config
class ReportingSettings:
    """What training reports, and where. None of it changes the result."""

    steps_per_log: int = execution_only(default=10)
    """Steps between two lines of metrics.jsonl."""

    steps_per_report: int | None = execution_only(default=None)
    """Steps between two reports to the trackers. None: as `steps_per_log`."""

    trackers: tuple[TrackerConfig, ...] = execution_only(default=())
    """Where metrics go in addition to metrics.jsonl, see `trackers`."""

    progress_bar: str = execution_only(default="rich")
    """A style of `progress_bar`."""

    track_memory: bool | float = execution_only(default=False)
    """Log the peak memory of host and devices. True: with each logged step. A number: at most once in so many
    seconds."""

    weight_distribution_log_steps: int | None = execution_only(default=None)
    """Report the mean, standard deviation, largest absolute value and histogram of each tensor to the trackers, every
    this many steps. None: never."""

    weight_distribution_pattern: str = execution_only(default=".*")
    """A regular expression for the tensors to report, see `tensor_names`."""

    def check_reporting(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        require(self, "steps_per_log", self.steps_per_log >= 1, "at least 1")
        reports = self.steps_per_report
        require(self, "steps_per_report", reports is None or reports >= 1, "at least 1, or None")
        require_one_of(self, "progress_bar", STYLES)
        require(self, "track_memory", self.track_memory >= 0, "True, False, or seconds")
        every = self.weight_distribution_log_steps
        require(self, "weight_distribution_log_steps", every is None or every >= 1, "at least 1, or None")
        heard = every is None or bool(self.trackers)
        require(self, "weight_distribution_log_steps", heard, "None without trackers, which receive the distributions")
        require_pattern(self, "weight_distribution_pattern", self.weight_distribution_pattern)
        check_trackers(self.trackers)

    def logs(self, step: int) -> bool:
        """Whether metrics.jsonl gets a line for this step."""
        return step == 1 or step % self.steps_per_log == 0

    def reports(self, step: int) -> bool:
        """Whether the trackers get the figures of this step."""
        return self.logs(step) if self.steps_per_report is None else step == 1 or step % self.steps_per_report == 0

    def report(
        self,
        output_path: str,
        num_steps: int,
        start: Checkpoint | None,
        *,
        config: Mapping[str, object],
        first_process: bool,
    ) -> Report:
        """Start the report of an attempt.

        `config`: settings of the run, for trackers. `start`: the checkpoint that the run resumes from; the log up to
        its step is kept.
        """
        lines = [] if start is None else read_lines(start.output_path, start.step)
        trackers = Trackers(
            self.trackers if first_process else (),
            name=run_name(output_path),
            config=config,
            output_path=output_path,
            states={} if start is None else start.about.get("trackers", {}),
        )
        seconds = 0.0 if self.track_memory is True else float(self.track_memory)
        memory = None if self.track_memory is False else MemoryWatch(seconds)
        return Report(
            MetricsLog(output_path, lines, writes=first_process),
            trackers,
            ProgressBar(self.progress_bar, num_steps, shows=first_process),
            memory,
            first_process,
        )


def run_name(output_path: str) -> str:
    """`chat_seed0` of {prefix}/checkpoints/chat_seed0-0123456789/1, the directory of an attempt; else its last part."""
    *_, step, attempt = ["", *output_path.rstrip("/").split("/")]
    name, _, fingerprint = step.rpartition("-")
    return name if attempt.isdigit() and name and fingerprint.isalnum() else attempt


class Report:
    """The report of one attempt."""

    def __init__(
        self,
        log: MetricsLog,
        trackers: Trackers,
        progress_bar: ProgressBar,
        memory: MemoryWatch | None,
        first_process: bool,
    ) -> None:
        self.log = log
        self._first_process, self._told = first_process, False
        self._trackers, self._progress_bar, self._memory = trackers, progress_bar, memory

    def compiles(self, step: int) -> None:
        """After so many steps, the next one is compiled."""
        self._progress_bar.compiles(step)

    def add(self, metrics: Mapping[str, float | None], *, logged: bool = True, reported: bool = True) -> None:
        """`metrics` of a step, "step" among them; null where a figure is not known.

        logged: write them to metrics.jsonl. reported: hand them to the trackers.
        """
        metrics = {**metrics, **(self._memory.figures() if self._memory else {})}
        self._tell_if_diverged(metrics)
        if logged:
            self.log.add(metrics)
            self._progress_bar.update(metrics)
        if reported:
            self._trackers.log(int(metrics["step"] or 0), metrics)

    def add_weights(self, step: int, figures: Mapping[str, float], histograms: Histograms) -> None:
        """Only to the trackers: there are too many figures for the log."""
        self._trackers.log(step, figures)
        self._trackers.log_histograms(step, histograms)

    def state(self) -> Mapping[str, Fields]:
        """For the checkpoint of this step: what trackers need to continue the run. It also flushes the log."""
        self.log.flush()
        return self._trackers.state()

    def _tell_if_diverged(self, metrics: Mapping[str, float | None]) -> None:
        loss = metrics.get("loss")
        first = None if loss is None else self.log.diverged(loss)
        if self._told or first is None:
            return
        self._told = True
        self._tell(
            f"warning: the loss of step {metrics['step']} is {loss:,.4g}, and was {first:.4g} at first: training has "
            "diverged; try a lower learning_rate, more warmup, or a lower max_grad_norm"
        )

    def _tell(self, text: str) -> None:
        if self._first_process:
            print(text, file=sys.stderr, flush=True)

    def close(self, figures: Mapping[str, float] | None) -> None:
        """`figures`: those of the whole run, for `metrics.json`. None: it failed."""
        failed = figures is None
        self._progress_bar.close()
        if figures is None:
            self.log.flush()
        else:
            self.log.close(figures)
        self._trackers.close(failed=failed)
