"""The configs of a sweep's steps, except its trainings: light values that name the functions that do the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from marin_sft.evaluation.directions import DIRECTIONS
from marin_sft.execution.resources import Resources
from marin_sft.execution.step import (
    ExecutorStep,
    InputName,
    SizesOfInputs,
    StepConfig,
    omitted_when,
    this_output_path,
    total,
)
from marin_sft.export.hf_config import HfExport
from marin_sft.sweeps.searches import Between
from marin_sft.training.checks import require, unresolved
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.metrics.reporting import LOG
from marin_sft.training.sft_config import SFTConfig


@dataclass(frozen=True, kw_only=True)
class SweptRunSpec:
    """One training of a sweep, and its evaluations."""

    point: str
    """The name of its point; for one whose settings a step chooses, its own."""

    settings: dict[str, object] = field(default_factory=dict)
    """JSON values. {}: a step chooses them."""

    seed: int | None = None
    """Of the training, where points are trained with several."""

    rung: int = 0
    """Of successive halving: how many times it has gone on."""

    trained: str | None
    """Output of the training. None: it failed."""

    evaluations: dict[str, str | None] = field(default_factory=dict)
    """Outputs with a metrics.json, by the name of the evaluation."""


@dataclass(frozen=True, kw_only=True)
class SweepTableConfig(StepConfig, kind="sweep_table", version=1, body="marin_sft.sweeps.table:sweep_table"):
    """The results of all points of a sweep, best first."""

    TABLE = "table.txt"

    runs: tuple[SweptRunSpec, ...]
    """All trainings."""

    metric: str
    """The figure that decides: one of the training's last, such as "validation/loss", or one of an evaluation's, such
    as "answers/exact_match"."""

    direction: str
    """"max" or "min"."""

    promoted: int = omitted_when(0, default=0)
    """How many of the best to list in chosen.json, for trainings that go on from them."""

    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        if not unresolved(self):
            require(self, "direction", self.direction in DIRECTIONS, "'max' or 'min'")

    def told(self) -> Mapping[str, Any]:
        runs = [
            {
                "point": run.point,
                "settings": run.settings,
                "seed": run.seed,
                "rung": run.rung,
                "trained": _name_of(run.trained),
                "evaluations": {label: _name_of(step) for label, step in run.evaluations.items()},
            }
            for run in self.runs
        ]
        return {"metric": self.metric, "direction": self.direction, "promoted": self.promoted, "runs": runs}

    def when_blocked(self) -> str | None:
        return (
            "a point has failed. All others are kept. Run it again, leave it out of the sweep, or make the table of "
            "the points that finish: sweep(..., finished_only=True)"
        )


def _name_of(source: Any) -> str | None:
    """The name of the step that makes an output."""
    step = source.step if isinstance(source, InputName) else source
    return step.name if isinstance(step, ExecutorStep) else None


@dataclass(frozen=True, kw_only=True)
class ProposalConfig(StepConfig, kind="sweep_proposal", version=1, body="marin_sft.sweeps.proposal:proposal"):
    """The next points to try, from the results of those before, by Optuna's TPE sampler."""

    space: dict[str, Between | tuple[object, ...]]
    """By setting, what to choose from."""

    runs: tuple[SweptRunSpec, ...]
    """The trainings before."""

    metric: str
    """See `SweepTableConfig`."""

    direction: str
    """"max" or "min"."""

    points: int
    """How many to propose."""

    seed: int
    """Of the sampler."""

    output_path: str = this_output_path()


@dataclass(frozen=True, kw_only=True)
class ChosenTrainingConfig(
    StepConfig,
    kind="chosen_training",
    version=1,
    body="marin_sft.sweeps.chosen:chosen_training",
    fresh_process=True,
    torch=False,
    log=LOG,
):
    """A training whose settings another step chooses from results. It may go on from where an earlier one has ended."""

    training: SFTConfig | DPOConfig
    """The training without the settings that are chosen."""

    trainer: str
    """Kind and version of the training, such as "sft 4"."""

    chosen: str
    """Output of the step that chooses: its chosen.json lists settings, and the training to go on from."""

    place: int
    """Which of the chosen ones it is, from 0."""

    earlier: dict[str, str | None] = field(default_factory=dict)
    """Outputs of the trainings to go on from, by name."""

    output_path: str = this_output_path()

    @classmethod
    def size(cls, config: Mapping[str, Any], inputs: SizesOfInputs) -> float:
        """Tokens to train on."""
        return total(inputs, "training", of="tokens") * float(config["training"].get("stop_after") or 1)

    def advice(self, resources: Resources) -> str | None:
        return self.training.advice(resources)


@dataclass(frozen=True, kw_only=True)
class BestPointConfig(
    StepConfig,
    kind="best_point",
    version=1,
    body="marin_sft.sweeps.best:best_point",
    one_host=True,
    fresh_process=True,
    torch=False,
):
    """The model of the best point of a sweep, as a Hugging Face directory."""

    runs: tuple[SweptRunSpec, ...]
    """All trainings."""

    metric: str
    """See `SweepTableConfig`."""

    direction: str
    """"max" or "min"."""

    exports: dict[str, HfExport]
    """How to export each, by its name."""

    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        if not unresolved(self):
            require(self, "direction", self.direction in DIRECTIONS, "'max' or 'min'")
