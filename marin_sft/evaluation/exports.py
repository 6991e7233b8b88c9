"""Evaluations of the exports that training writes while it runs.

Each export is an input of its own, which a step can use before the training ends (`ExecutorStep.early`). So nothing
here knows how far the training has come: these are ordinary steps, which the scheduler begins when their export is
whole. What they find counts once the training has committed the same export. The table and the best export wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marin_sft.arguments import check_type, named_arguments
from marin_sft.errors import ConfigError
from marin_sft.evaluation.directions import direction_of
from marin_sft.evaluation.step_configs import BestExportConfig, ExportTableConfig, GenerateConfig, PerplexityConfig
from marin_sft.execution.step import AnyStep, ExecutorStep, InputName
from marin_sft.inputs import check_step, path_of
from marin_sft.nearest import nearest_text
from marin_sft.training.export_names import part_of
from marin_sft.training.train_config import TrainConfig

Evaluation = Callable[[str, Any], AnyStep]
"""Makes a step from its name and the model to evaluate, a `Source`. Its output has a metrics.json."""


@dataclass(frozen=True)
class ExportEvaluations:
    """What `evaluate_exports` makes.

    exports: by training step.
    evaluations: by training step and name; those of step 0 are of the base model.
    table: a step, the figures of all of them by training step.
    """

    name: str
    trained: ExecutorStep[Any]
    exports: Mapping[int, InputName]
    evaluations: Mapping[int, Mapping[str, AnyStep]]
    table: ExecutorStep[ExportTableConfig]

    @named_arguments()
    def best(self, metric: str, direction: str | None = None) -> ExecutorStep[BestExportConfig]:
        """`hf/{name}_best`: the export with the best `metric`, as a step that others can use like an `export`.

        metric: a column of the table: the name of an evaluation, and one of its figures, as in "answers/exact_match".
        direction: "max" or "min". None: as is usual for the metric.

        Raises:
            ConfigError: no such evaluation, or the usual direction is not known.
        """
        evaluation, _, figure = metric.partition("/")
        known = list(next(iter(self.evaluations.values())))
        if evaluation not in known or not figure:
            raise ConfigError(
                f"best of '{self.name}': metric = {metric!r}: expected the name of an evaluation and one of its "
                f"figures, like '{known[0]}/loss'{nearest_text(evaluation, known)}"
            )
        step = self.evaluations[max(self.evaluations)][evaluation]
        figures = step.config.figures if isinstance(step.config, GenerateConfig | PerplexityConfig) else (figure,)
        if figure not in figures:
            raise ConfigError(
                f"best of '{self.name}': metric = {metric!r}: the step '{step.name}' has no figure {figure!r}"
                f"{nearest_text(figure, figures)}"
            )
        config = BestExportConfig(
            table=path_of(self.table),
            trained=path_of(self.trained),
            metric=metric,
            direction=direction_of(f"best of '{self.name}'", metric, figure, direction),
        )
        return ExecutorStep(f"hf/{self.name}_best", config=config)


@named_arguments()
def evaluate_exports(
    name: str,
    trained: ExecutorStep[Any],
    evaluations: Mapping[str, Evaluation],
    *,
    every: int | None = None,
    at: Sequence[int] | None = None,
    with_base: bool = False,
) -> ExportEvaluations:
    """Evaluate the exports of a training (`steps_per_hf_export`) while it goes on, and list the results by step.

    evaluations: by name, functions that make a step from its name and the export, such as
        `{"answers": lambda name, model: evaluate(name, model, prompts, max_new_tokens=64)}`.
    every: training steps between two exports to evaluate; the last is always one of them. None: every export.
    at: the training steps whose exports to evaluate. Needed if the number of steps is not known before training.
    with_base: evaluate the model that training starts from, too, as that of training step 0.

    Raises:
        ConfigError: the training does not write or keep these exports.
    """
    what = f"evaluate_exports '{name}'"
    check_type(what, "name", name, str, "a text")
    check_step(f"{what}: trained", trained, TrainConfig, "sft() or dpo()")
    check_evaluations(what, evaluations)
    if not evaluations:
        raise ConfigError(f"{what}: got no evaluations; expected functions by name, like {{'answers': ...}}")
    check_type(what, "every", every, int | None, "a number of training steps, or None")
    check_type(what, "at", at, Sequence | None, "a list of training steps, or None")
    steps = _steps(what, trained, every, at)
    exports = {step: trained.early(part_of(step)) for step in steps}
    models = {**({0: _base(what, trained.config)} if with_base else {}), **exports}
    made = {
        step: {
            label: evaluation_step(f"{what}: {label}", make, f"{name}_{label}_step{step}", export)
            for label, make in evaluations.items()
        }
        for step, export in models.items()
    }
    config = ExportTableConfig(
        evaluations={str(step): {label: path_of(each) for label, each in of.items()} for step, of in made.items()}
    )
    return ExportEvaluations(name, trained, exports, made, ExecutorStep(f"evaluation/{name}_exports", config=config))


def _base(what: str, config: TrainConfig) -> Any:
    """What training starts from, as a model."""
    if config.lora is not None and config.lora.adapter_path is not None:
        raise ConfigError(f"{what}: with_base: training starts from an adapter, which is no model; leave it out")
    return config.base_model


def check_evaluations(what: str, evaluations: object) -> None:
    """Raise ConfigError unless they are functions by name."""
    check_type(what, "evaluations", evaluations, Mapping, "functions by name")
    assert isinstance(evaluations, Mapping)
    for label, make in evaluations.items():
        if not callable(make):
            raise ConfigError(f"{what}: evaluations[{label!r}] = {make!r}; expected a function from a name and a model")


def evaluation_step(what: str, make: Evaluation, name: str, export: Any) -> AnyStep:
    """What `make` makes. Raises ConfigError, with `what`: it is no step."""
    step = make(name, export)
    if not isinstance(step, ExecutorStep):
        raise ConfigError(f"{what}: expected a function that returns a step, got {step!r}")
    return step


def _steps(what: str, trained: ExecutorStep[Any], every: int | None, at: Sequence[int] | None) -> list[int]:
    """The training steps whose exports are evaluated."""
    config, of = trained.config, f"step '{trained.name}'"
    if config.hf_exports is None:
        raise ConfigError(f"{what}: {of} writes no exports while it runs; give it steps_per_hf_export")
    if config.hf_exports_kept is not None:
        raise ConfigError(
            f"{what}: {of} has hf_exports_kept={config.hf_exports_kept}, so an export may be gone before it is "
            "evaluated; expected None"
        )
    if every is not None and at is not None:
        raise ConfigError(f"{what}: got every={every} and at={at}; expected one of them")
    cadence = config.hf_exports.steps
    total = config.num_train_steps if config.num_train_epochs is None else None
    if at is not None:
        return _listed(what, of, list(at), cadence, total)
    if total is None or config.early_stopping is not None:
        why = "early_stopping may end it" if total is not None else "num_train_epochs gives its length"
        raise ConfigError(
            f"{what}: the exports of {of} are not known before it runs, since {why}; expected num_train_steps alone, "
            "or at=[...], the training steps whose exports to evaluate"
        )
    every = cadence if every is None else every
    if every < 1 or every % cadence:
        raise ConfigError(f"{what}: every = {every}: {of} exports every {cadence} steps; expected a multiple of that")
    return [*range(every, total, every), total]


def _listed(what: str, of: str, at: list[int], cadence: int, total: int | None) -> list[int]:
    for step in at:
        check_type(what, "at", step, int, "training steps")
    most = max(at, default=0) if total is None else total
    wrong = [step for step in at if step != total and (not 1 <= step <= most or step % cadence)]
    if not at or wrong:
        last = "" if total is None else f", and after the last, {total}"
        raise ConfigError(f"{what}: at = {wrong or at}: {of} exports every {cadence} steps{last}; expected such steps")
    return sorted(set(at))
