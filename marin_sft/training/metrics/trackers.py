"""Where metrics go in addition to metrics.jsonl: Weights & Biases, TensorBoard. A failing tracker never ends training.

    sft("chat", ..., trackers=(WandbConfig(project="chat", mode="offline"), TensorboardConfig()))

Keys come only from the environment (`WANDB_API_KEY`), never from a config: configs are written to records.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TypeVar

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError
from marin_sft.training.checks import check_types, require
from marin_sft.training.metrics.tracker import Histograms, Run, Tracker, TrackerConfig
from marin_sft.training.models.model_config import Fields

T = TypeVar("T")
WANDB_MODES = ("online", "offline", "disabled")


@dataclass(frozen=True, kw_only=True)
class WandbConfig(metaclass=NamedFields):
    """A run on Weights & Biases. Resumed training continues the same run.

    project, entity, group, tags: of the run. None: wandb's defaults.
    name: of the run. None: the name of the step.
    mode: "online"; "offline": files in `wandb/` of the output, to upload with `wandb sync`; "disabled". None:
    `$WANDB_MODE`.

    Raises:
        ConfigError: the mode is unknown.
    """

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    mode: str | None = None

    kind = "wandb"

    def __post_init__(self) -> None:
        check_types(self)
        require(self, "mode", self.mode in (*WANDB_MODES, None), f"one of {', '.join(WANDB_MODES)}, or None")

    def start(self, run: Run) -> Tracker:
        from marin_sft.training.metrics.wandb_tracker import WandbTracker

        return WandbTracker(run, **asdict(self))


@dataclass(frozen=True, kw_only=True)
class TensorboardConfig(metaclass=NamedFields):
    """Event files in `tensorboard/` of the output, for `tensorboard --logdir`. Nothing needs to be installed."""

    kind = "tensorboard"

    def start(self, run: Run) -> Tracker:
        from marin_sft.training.metrics.tensorboard_tracker import TensorboardTracker

        return TensorboardTracker(run.output_path, run.resumed)


def with_tags(trackers: Sequence[TrackerConfig], tags: Sequence[str]) -> tuple[TrackerConfig, ...]:
    """The same trackers; those that have tags also get `tags`."""
    return tuple(
        replace(tracker, tags=(*tracker.tags, *tags)) if isinstance(tracker, WandbConfig) else tracker
        for tracker in trackers
    )


def check_trackers(trackers: Sequence[TrackerConfig]) -> None:
    """Raise ConfigError if one is not a tracker, or two are of one kind."""
    for tracker in trackers:
        if not hasattr(tracker, "kind") or not callable(getattr(tracker, "start", None)):
            raise ConfigError(f"trackers: got {tracker!r}, expected WandbConfig(...) or TensorboardConfig()")
    kinds = [tracker.kind for tracker in trackers]
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"trackers: got {', '.join(kinds)}, expected at most one of each kind")


class Trackers:
    """The running trackers. One that fails, at the start or later, is dropped with a warning, and training goes on."""

    def __init__(
        self,
        configs: Sequence[TrackerConfig],
        *,
        name: str,
        config: Mapping[str, object],
        output_path: str,
        states: Mapping[str, Fields],
    ) -> None:
        """`states`: what `state` returned for the checkpoint that training resumes. {}: training is new."""
        self._running: dict[str, Tracker] = {}
        for each in configs:
            run = Run(name, config, output_path, states.get(each.kind, {}))
            tracker = self._guarded(each.kind, partial(each.start, run))
            if tracker is not None:
                self._running[each.kind] = tracker

    def log(self, step: int, figures: Mapping[str, float | None]) -> None:
        numbers = {name: value for name, value in figures.items() if name != "step" and value is not None}
        self._each(lambda tracker: tracker.log(step, numbers))

    def log_histograms(self, step: int, histograms: Histograms) -> None:
        self._each(lambda tracker: tracker.log_histograms(step, histograms))

    def state(self) -> dict[str, Fields]:
        states = {kind: self._guarded(kind, tracker.state) for kind, tracker in list(self._running.items())}
        return {kind: state for kind, state in states.items() if state is not None}

    def close(self, *, failed: bool) -> None:
        self._each(lambda tracker: tracker.close(failed=failed))
        self._running.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for kind, tracker in list(self._running.items()):
            self._guarded(kind, partial(call, tracker))

    def _guarded(self, kind: str, call: Callable[[], T]) -> T | None:
        """The result of `call`. None: it failed, and the tracker is dropped."""
        try:
            return call()
        except Exception as error:  # training must not fail because of a network, a key or a library
            self._running.pop(kind, None)
            print(
                f"warning: {kind} gets nothing from here on: {type(error).__name__}: {error}; training goes on, and "
                "metrics.jsonl has all of it",
                file=sys.stderr,
            )
            return None
