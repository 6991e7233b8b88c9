"""One training in many settings.

A sweep is made of ordinary steps: a training per point, evaluations of each if asked for, a table of the results, and
the best point as a model. What points have in common (data, tokens, mixture, base model, reference) is made once, as
always: only the trainings differ.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from marin_sft.arguments import check_type, named_arguments
from marin_sft.data.files import open_file
from marin_sft.errors import ConfigError
from marin_sft.evaluation.directions import direction_of
from marin_sft.evaluation.exports import Evaluation, check_evaluations, evaluation_step
from marin_sft.execution.step import AnyStep, ExecutorStep, InputName, kind_of
from marin_sft.export.from_training import export_fields
from marin_sft.export.hf_config import ExportConfig, HfExport
from marin_sft.inputs import path_of
from marin_sft.nearest import did_you_mean, nearest_text
from marin_sft.sweeps.base import Base, check_names, content_of, over_of, trained
from marin_sft.sweeps.figures import run_name
from marin_sft.sweeps.points import Over, Settings, each_value, names_of, points_of, shown_value, space_of
from marin_sft.sweeps.searches import Halving, OptunaSearch, RandomSearch, Search
from marin_sft.sweeps.step_configs import (
    BestPointConfig,
    ChosenTrainingConfig,
    ProposalConfig,
    SweepTableConfig,
    SweptRunSpec,
)
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.train_config import TrainConfig

_OF_DPO = {"rewards", "logps", "logits"}
_OF_TRAININGS = ("loss", "validation", "train", "before", *sorted(_OF_DPO))  # first parts of their figures


class Launched(Protocol):
    """What `executor_main` returns."""

    @property
    def results(self) -> Sequence[object]: ...
    def output_path(self, step: AnyStep, name: str | None = None) -> str | None: ...


@dataclass(frozen=True)
class Sweep:
    """What `sweep` makes.

    points: the settings by the name of each point. Without those that steps choose from results.
    trained: the trainings by name. Each is a point's, with its seed if there are several.
    table: a step, the results of all points, best first.
    """

    name: str
    points: Mapping[str, Settings]
    trained: Mapping[str, ExecutorStep[Any]]
    table: ExecutorStep[SweepTableConfig]
    _exports: Mapping[str, HfExport]

    @named_arguments()
    def best(self, metric: str | None = None, direction: str | None = None) -> ExecutorStep[BestPointConfig]:
        """`hf/{name}_best`: the model of the best point, as a step that others can use like an `export`.

        metric: another one than the sweep's.
        direction: "max" or "min". None: as is usual for the metric.

        Raises:
            ConfigError: no such evaluation, or the usual direction is not known.
        """
        of_table = self.table.config
        chosen, way = of_table.metric, of_table.direction
        if metric is not None:
            chosen = metric
            way = _direction(f"best of '{self.name}'", metric, direction, of_table.runs[0].evaluations)
        elif direction is not None:
            raise ConfigError(f"best of '{self.name}': direction={direction!r} without metric; expected both")
        config = BestPointConfig(runs=of_table.runs, metric=chosen, direction=way, exports=dict(self._exports))
        return ExecutorStep(f"hf/{self.name}_best", config=config)

    def print_results(self, run: Launched) -> None:
        """Print the table that a launch has made or found. Nothing after a dry run, or if there is none.

        A launch in which a step failed prints it itself, and exits.
        """
        path = run.output_path(self.table, SweepTableConfig.TABLE)
        if run.results and path is not None:
            with open_file(path, "rb") as file:
                print(f"\n{file.read().decode()}", end="")


@named_arguments()
def sweep(
    base: Base,
    over: Over,
    *,
    name: str,
    metric: str,
    direction: str | None = None,
    evaluations: Mapping[str, Evaluation] | None = None,
    search: Search | None = None,
    halving: Halving | None = None,
    seeds: int | Sequence[int] | None = None,
    finished_only: bool = False,
) -> Sweep:
    """Train in many settings, and list the results, best first.

    base: a step of `sft`, `dpo`, `default_sft` and so on, whose settings are replaced; or a function from settings to
        such a step, to vary what other steps depend on, such as the weights of a mixture.
    over: by setting, the values to combine; or a list of points. Settings of an adapter are `lora.r` and so on.
    metric: what decides: a figure of the training's last step, such as "validation/loss", or the name of an evaluation
        and one of its figures, such as "answers/exact_match".
    direction: "max" or "min". None: as is usual for the metric.
    evaluations: by name, functions that make a step from its name and the export of a point, such as
        `{"answers": lambda name, model: evaluate(name, model, prompts, max_new_tokens=64)}`.
    search: None: all combinations. `RandomSearch` draws some, `OptunaSearch` chooses them from earlier results.
    halving: `Halving` trains all points a part of the way, and goes on with the better ones.
    seeds: train each point with these seeds, or so many; the table has means and standard deviations.
    finished_only: make the table and the best of the points that finish. By default a failed point keeps them from
        being made; in both cases, all other points are trained.

    Raises:
        ConfigError: for settings that the training does not have, or that cannot be had.
    """
    what = f"sweep '{name}'"
    evaluations = {} if evaluations is None else evaluations
    check_type(what, "name", name, str, "a text")
    check_evaluations(what, evaluations)
    check_type(
        what, "search", search, RandomSearch | OptunaSearch | None, "RandomSearch(...), OptunaSearch(...) or None"
    )
    check_type(what, "halving", halving, Halving | None, "Halving(...) or None")
    direction = _direction(what, metric, direction, evaluations)
    over = over_of(what, over)
    making = _Making(what, base, name, metric, direction, evaluations, finished_only)
    _check_together(what, base, over, search, halving, seeds)
    if isinstance(search, OptunaSearch):
        making.asked(over, search)
        points: dict[str, Settings] = {}
    else:
        settings = points_of(what, over, search)
        check_names(what, base, list(settings[0]))
        points = dict(zip(names_of(settings), settings, strict=True))
        if halving is None:
            making.all_of(points, _seeds(what, seeds))
        else:
            making.halved(points, halving)
    return Sweep(name, points, making.trained, making.table(f"sweeps/{name}"), making.exports)


def _direction(what: str, metric: str, given: str | None, evaluations: Mapping[str, object]) -> str:
    if not isinstance(metric, str):
        raise ConfigError(f"{what}: metric = {metric!r}; expected the name of a figure, like 'validation/loss'")
    first, _, figure = metric.partition("/")
    if first in evaluations and not figure:
        raise ConfigError(f"{what}: metric = {metric!r}: expected one figure of that evaluation, like '{first}/loss'")
    known = (*evaluations, *_OF_TRAININGS)
    if first not in known and (figure or did_you_mean(first, evaluations)):
        raise ConfigError(f"{what}: metric = {metric!r}: no such evaluation{nearest_text(first, known)}")
    return direction_of(what, metric, figure if first in evaluations else metric, given)


def _seeds(what: str, seeds: int | Sequence[int] | None) -> list[int | None]:
    if seeds is None:
        return [None]
    found = list(range(seeds)) if type(seeds) is int else list(seeds) if isinstance(seeds, Sequence) else []
    if not found or not all(type(seed) is int for seed in found) or len(set(found)) < len(found):
        raise ConfigError(f"{what}: seeds = {seeds!r}; expected a number of seeds, or a list of different ones")
    return list(found)


def _check_together(
    what: str, base: Base, over: Over, search: Search | None, halving: Halving | None, seeds: object
) -> None:
    """Raise ConfigError for what cannot be had together."""
    names = list(over if isinstance(over, Mapping) else over[0] if over and isinstance(over[0], Mapping) else ())
    if seeds is not None and "seed" in names:
        raise ConfigError(f"{what}: over has 'seed', and seeds = {seeds!r}; expected one of both")
    chosen = halving or (search if isinstance(search, OptunaSearch) else None)
    if chosen is None:
        return
    if isinstance(search, OptunaSearch) and halving is not None:
        raise ConfigError(f"{what}: got {search} and {halving}; expected one of both: each decides from results")
    if seeds is not None:
        raise ConfigError(f"{what}: seeds = {seeds!r} with {chosen}; expected None. Sweep over the best settings again")
    if not isinstance(base, ExecutorStep):
        raise ConfigError(
            f"{what}: {chosen} with a function as base; expected a step: what is trained next is known only later"
        )
    lengths = [
        name for name in names if name in ("num_train_steps", "num_train_epochs", "early_stopping", "stop_after")
    ]
    if halving is not None and lengths:
        raise ConfigError(
            f"{what}: over has {lengths[0]!r}, but the rungs of {halving} are shares of one length, and a decay whose "
            "length differs is another schedule; expected the same length for all points"
        )
    if halving is not None and getattr(base.config, "early_stopping", None) is not None:
        raise ConfigError(f"{what}: {halving} with a base that has early_stopping; expected one of both")


@dataclass
class _Making:
    """Collects the steps of one sweep."""

    what: str
    base: Base
    name: str
    metric: str
    direction: str
    evaluations: Mapping[str, Evaluation]
    finished_only: bool
    trained: dict[str, ExecutorStep[Any]] = field(default_factory=dict)
    exports: dict[str, HfExport] = field(default_factory=dict)
    runs: list[SweptRunSpec] = field(default_factory=list)

    def all_of(self, points: Mapping[str, Settings], seeds: Sequence[int | None]) -> None:
        """Each point with each seed."""
        for point, settings in points.items():
            for seed in seeds:
                run = SweptRunSpec(point=point, settings=_json_values(settings), seed=seed, trained=None)
                more = {} if seed is None else {"seed": seed}
                self._add(run, self._step({**settings, **more}, run_name(run)))
        if not isinstance(self.base, ExecutorStep):
            self._require_different()

    def halved(self, points: Mapping[str, Settings], halving: Halving) -> None:
        """All points on the first rung, and so many places on each later one, which tables fill."""
        counts = halving.counts(len(points))
        for point, settings in points.items():
            self._require_plain(settings, halving)
            run = SweptRunSpec(point=point, settings=_json_values(settings), trained=None)
            step = self._step(settings, point)
            self._add(run, _stopping(step, halving.rungs[0]))
        for rung in range(1, len(halving.rungs)):
            before = [run for run in self.runs if run.rung == rung - 1]
            table = self._table(f"sweeps/{self.name}_rung{rung}", before, counts[rung])
            base = _stopping(self._base, None if rung == len(halving.rungs) - 1 else halving.rungs[rung])
            earlier = {run_name(run): run.trained for run in before}
            for place in range(counts[rung]):
                self._chosen(f"rung{rung + 1}_{place + 1}", base, table, place, rung, earlier)

    def asked(self, over: Over, search: OptunaSearch) -> None:
        """Rounds of trainings, each round chosen from the results of those before."""
        if not isinstance(over, Mapping):
            raise ConfigError(f"{self.what}: {search} with a list of points; expected what to choose from by setting")
        space = space_of(self.what, over)
        check_names(self.what, self.base, list(space))
        for settings in each_value(space):
            trained(self.what, self.base, settings, self.name)
        for values in space.values():
            self._require_plain(dict(enumerate(values)) if isinstance(values, tuple) else {}, search)
        for number, count in enumerate(search.rounds, 1):
            config = ProposalConfig(
                space=dict(space),
                runs=tuple(self.runs),
                metric=self.metric,
                direction=self.direction,
                points=count,
                seed=search.seed,
            )
            proposal = ExecutorStep(f"sweeps/{self.name}_round{number}", config=config)
            for place in range(count):
                self._chosen(f"trial{len(self.runs) + 1}", self._base, proposal, place, 0, {})

    def table(self, name: str) -> ExecutorStep[SweepTableConfig]:
        return self._table(name, self.runs, 0)

    @property
    def _base(self) -> ExecutorStep[Any]:
        assert isinstance(self.base, ExecutorStep), "checked before"
        return self.base

    def _table(self, name: str, runs: Sequence[SweptRunSpec], promoted: int) -> ExecutorStep[SweepTableConfig]:
        config = SweepTableConfig(runs=tuple(runs), metric=self.metric, direction=self.direction, promoted=promoted)
        return ExecutorStep(name, config=config)

    def _step(self, settings: Settings, run: str) -> ExecutorStep[Any]:
        step = trained(self.what, self.base, settings, f"{self.name}, {run}")
        return dataclasses.replace(step, name=f"checkpoints/{self.name}/{run}", override_output_path=None)

    def _chosen(
        self, run: str, base: ExecutorStep[Any], chosen: AnyStep, place: int, rung: int, earlier: Mapping[str, Any]
    ) -> None:
        kind = kind_of(base.fn)
        config = ChosenTrainingConfig(
            training=base.config,
            trainer=f"{kind.kind} {kind.version}",
            chosen=path_of(chosen),
            place=place,
            earlier=dict(earlier),
        )
        step = ExecutorStep(f"checkpoints/{self.name}/{run}", config=config, resources=base.resources)
        self._add(SweptRunSpec(point=run, rung=rung, trained=None), step, base)

    def _add(self, run: SweptRunSpec, step: ExecutorStep[Any], of: ExecutorStep[Any] | None = None) -> None:
        """of: the step whose training config it has."""
        name, config = run_name(run), (of or step).config
        if step.resources is not None and name in self.trained:
            raise ConfigError(f"{self.what}: two trainings would have the name {name!r}; expected different settings")
        self._require_measured(step.name, config)
        fields = export_fields(f"{self.name}, {name}", step.name, config)
        self.trained[name] = step
        self.exports[name] = HfExport(**fields)
        evaluated: dict[str, Any] = {}
        if self.evaluations:
            export = ExecutorStep(f"hf/{self.name}/{name}", config=ExportConfig(checkpoint=path_of(step), **fields))
            evaluated = {label: self._used(made) for label, made in self._evaluated(name, export)}
        self.runs.append(dataclasses.replace(run, trained=self._used(step), evaluations=evaluated))

    def _require_different(self) -> None:
        """Raise ConfigError for points whose trainings are the same: a function may leave a setting unused."""
        seen: dict[object, str] = {}
        contents: dict[int, object] = {}
        for run, step in self.trained.items():
            config = dataclasses.replace(step.config, hf_exports=None)  # these have names
            if (other := seen.setdefault(content_of(config, contents), run)) != run:
                raise ConfigError(
                    f"{self.what}: the function makes the same training for {other!r} and {run!r}, so it leaves a "
                    "setting unused; expected one that uses all settings of over"
                )

    def _require_measured(self, step: str, config: TrainConfig) -> None:
        """Raise ConfigError for a metric that a training will not have."""
        parts = self.metric.split("/")
        if parts[0] in self.evaluations:
            return
        if parts[0] == "validation" and config.eval_cadence(1) is None:
            raise ConfigError(
                f"{self.what}: metric = {self.metric!r}, but '{step}' does not evaluate while it trains; give it "
                "steps_per_eval, or do_eval=True"
            )
        if not _OF_DPO.isdisjoint(parts) and not isinstance(config, DPOConfig):
            raise ConfigError(f"{self.what}: metric = {self.metric!r} is a figure of dpo(), but '{step}' is an SFT")

    def _evaluated(self, run: str, export: AnyStep) -> Iterator[tuple[str, AnyStep]]:
        for label, make in self.evaluations.items():
            yield label, evaluation_step(f"{self.what}: {label}", make, f"{self.name}/{run}_{label}", export)

    def _used(self, step: AnyStep) -> Any:
        used: InputName = step.as_input_name()
        return used.optional() if self.finished_only else path_of(step)

    def _require_plain(self, settings: Mapping[Any, object], search: object) -> None:
        """Raise ConfigError for values that a step could not write down for another."""
        for name, value in settings.items():
            if _json_value(value) != value or isinstance(value, tuple):
                raise ConfigError(
                    f"{self.what}: {search} with {name} = {value!r}; expected numbers, texts, lists or mappings of them"
                )


def _stopping(step: ExecutorStep[Any], share: float | None) -> ExecutorStep[Any]:
    return dataclasses.replace(step, config=dataclasses.replace(step.config, stop_after=share))


def _json_values(settings: Settings) -> dict[str, object]:
    return {name: _json_value(value) for name, value in settings.items()}


def _json_value(value: object) -> object:
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return shown_value(value)
