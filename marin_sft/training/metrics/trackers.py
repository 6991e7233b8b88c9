"""Where metrics go besides metrics.jsonl: Weights & Biases, TensorBoard. None of them can end a training.

    sft("chat", ..., trackers=(WandbConfig(project="chat", mode="offline"), TensorboardConfig()))

Keys are taken from the environment alone (`WANDB_API_KEY`), never from a config, which is written down in records.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError
from marin_sft.training.checks import check_types, require
from marin_sft.training.metrics.tracker import Histograms, Run, Tracker, TrackerConfig

T = TypeVar("T")
WANDB_MODES = ("online", "offline", "disabled")


@dataclass(frozen=True, kw_only=True)
class WandbConfig(metaclass=NamedFields):
    """A run on Weights & Biases. A resumed training goes on in the same run.

    project, entity, group, name, tags: of the run; None: wandb's defaults, and for `name` that of the step.
    mode: "online"; "offline", files in `wandb/` of the output, sent by `wandb sync`; "disabled"; None: `$WANDB_MODE`.

    Raises:
        ConfigError: for another mode.
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
    """The same, with more tags for those that have tags."""
    return tuple(
        replace(tracker, tags=(*tracker.tags, *tags)) if isinstance(tracker, WandbConfig) else tracker
        for tracker in trackers
    )


def check_trackers(trackers: Sequence[TrackerConfig]) -> None:
    """Raise ConfigError for what is no tracker, or two of one kind."""
    for tracker in trackers:
        if not hasattr(tracker, "kind") or not callable(getattr(tracker, "start", None)):
            raise ConfigError(f"trackers: got {tracker!r}, expected WandbConfig(...) or TensorboardConfig()")
    kinds = [tracker.kind for tracker in trackers]
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"trackers: got {', '.join(kinds)}, expected at most one of each kind")


class Trackers:
    """Those that started. One that fails, then or later, is told of once and left out; training goes on."""

    def __init__(
        self,
        configs: Sequence[TrackerConfig],
        *,
        name: str,
        config: Mapping[str, Any],
        output_path: str,
        states: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """`states`: what `state` gave when the checkpoint was written that training goes on from; {}: it starts."""
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

    def state(self) -> dict[str, dict[str, Any]]:
        states = {kind: self._guarded(kind, tracker.state) for kind, tracker in list(self._running.items())}
        return {kind: state for kind, state in states.items() if state is not None}

    def close(self, *, failed: bool) -> None:
        self._each(lambda tracker: tracker.close(failed=failed))
        self._running.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for kind, tracker in list(self._running.items()):
            self._guarded(kind, partial(call, tracker))

    def _guarded(self, kind: str, call: Callable[[], T]) -> T | None:
        """What it gives; None: it failed, and the tracker is out."""
        try:
            return call()
        except Exception as error:  # whatever is wrong with a network, a key or a library: the training is worth more
            self._running.pop(kind, None)
            print(
                f"warning: {kind} gets nothing from here on: {type(error).__name__}: {error}; training goes on, and "
                "metrics.jsonl has all of it",
                file=sys.stderr,
            )
            return None
