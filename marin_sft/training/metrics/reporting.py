"""Where the metrics of a run go: metrics.jsonl always, trackers, and whoever looks at the progress."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marin_sft.training.checkpoints import Checkpoint
from marin_sft.training.metrics.memory import MemoryWatch
from marin_sft.training.metrics.metrics_log import MetricsLog, read_lines
from marin_sft.training.metrics.progress_bar import ProgressBar
from marin_sft.training.metrics.trackers import Histograms, TrackerConfig, Trackers


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """`name`, `config`: of the run, for trackers. `memory_seconds`: see `MemoryWatch`; None: no figures of memory."""

    trackers: Sequence[TrackerConfig] = ()
    name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    progress_bar: str = "rich"
    memory_seconds: float | None = None

    def start(self, output_path: str, num_steps: int, start: Checkpoint | None, *, first_process: bool) -> Report:
        """`start`: the checkpoint that the run goes on from. What is reported before its step is reported again."""
        lines = [] if start is None else read_lines(start.output_path, start.step)
        trackers = Trackers(
            self.trackers if first_process else (),
            name=self.name,
            config=self.config,
            output_path=output_path,
            states={} if start is None else start.about.get("trackers", {}),
        )
        return Report(
            MetricsLog(output_path, lines, writes=first_process),
            trackers,
            ProgressBar(self.progress_bar, num_steps, shows=first_process),
            None if self.memory_seconds is None else MemoryWatch(self.memory_seconds),
            first_process,
        )


class Report:
    """Of one attempt."""

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

    def add(self, metrics: Mapping[str, float | None]) -> None:
        """`metrics` of a logged step, "step" among them; null where a figure is not known."""
        metrics = {**metrics, **(self._memory.figures() if self._memory else {})}
        self._tell_if_diverged(metrics)
        self.log.add(metrics)
        self._trackers.log(int(metrics["step"] or 0), metrics)
        self._progress_bar.update(metrics)

    def add_weights(self, step: int, figures: Mapping[str, float], histograms: Histograms) -> None:
        """To the trackers alone: there are many of them."""
        self._trackers.log(step, figures)
        self._trackers.log_histograms(step, histograms)

    def state(self) -> dict[str, Any]:
        """For the checkpoint of this step: what trackers need to go on in the same run. The log is whole after it."""
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
        """`figures`: of the whole run, for `metrics.json`; None: it failed."""
        failed = figures is None
        self._progress_bar.close()
        if figures is None:
            self.log.flush()
        else:
            self.log.close(figures)
        self._trackers.close(failed=failed)
