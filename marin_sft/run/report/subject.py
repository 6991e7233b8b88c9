"""What a report is about: launches, a step with all that it was made from, or the steps of an experiment file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from marin_sft.errors import DamagedFile, NoSuchStep, UserError
from marin_sft.execution.attempt_record import AttemptRecord
from marin_sft.execution.attempts import newest_record
from marin_sft.execution.catalog import find_step, in_parallel, location, step_name
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.executor import Executor, ExecutorFlags
from marin_sft.execution.record import Launch, read_begin, read_launches
from marin_sft.execution.step import AnyStep, StepConfig
from marin_sft.execution.step_state import read_state
from marin_sft.execution.store import Store
from marin_sft.run import launches
from marin_sft.run.experiment import steps_of

_VERSIONS = (
    "marin_sft",
    "jax",
    "ray",
    "transformers",
    "tokenizers",
    "marin_levanter",
    "marin_haliax",
    "optax",
    "numpy",
)


@dataclass(frozen=True)
class Planned:
    """A step of the subject.

    inputs: the directories of the steps that it uses. None: not recorded before the step's first attempt.
    decided: what the launch decided and what came of it: action, reason, detail, diff, result, seconds, error.
    told: what its config says of it, see `StepConfig.told`. {}: nothing, or it was not recorded.
    """

    name: str
    directory: str
    inputs: tuple[str, ...] | None = None
    decided: JsonObject = field(default_factory=dict)
    told: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """launches: as `launches.details`, without their steps, with versions and changed files."""

    title: str
    about: Literal["launch", "step", "experiment", "several"]
    launches: tuple[JsonObject, ...]
    steps: tuple[Planned, ...]


def subject_of(store: Store, texts: Sequence[str], files: bool = True) -> Subject:
    """texts: parts of launches' names, steps, or experiment files; none: the newest launch.

    files: whether a text may name an experiment file, which is run to find its steps.

    Raises:
        UserError: there is no such launch, step or file.
    """
    if not texts:
        newest = read_launches(store)[:1]
        if not newest:
            raise UserError(f"no launch is recorded under {store.prefix}; choose another store with --prefix")
        return _of_launch(store, newest[0])
    found = [_of_text(store, text, files) for text in texts]
    steps = {location(store, step.directory): step for subject in reversed(found) for step in subject.steps}
    ordered = dict.fromkeys(location(store, step.directory) for subject in found for step in subject.steps)
    told = {launch["run"]: launch for subject in found for launch in subject.launches}
    title = ", ".join(dict.fromkeys(subject.title for subject in found))
    about = found[0].about if len(found) == 1 else "several"
    return Subject(title, about, tuple(told.values()), tuple(steps[place] for place in ordered))


def _of_text(store: Store, text: str, files: bool) -> Subject:
    if files and text.endswith(".py"):
        return _of_experiment(store, text)
    if Launch(text, ended=False).is_ours:  # spares the search for a step
        return _of_launch(store, launches.find_launch(store, text))
    try:
        found = find_step(store, text)
    except NoSuchStep as no_step:
        try:
            launch = launches.find_launch(store, text)
        except UserError as no_launch:
            raise UserError(f"{text!r} is neither a step nor a launch: {no_step}; {no_launch}") from None
        return _of_launch(store, launch)
    return _of_step(store, found.directory)


def _of_launch(store: Store, launch: Launch) -> Subject:
    begin = read_begin(store, launch)
    told = launches.details_of(store, launch, begin)
    steps = [_planned(step, decided) for step, decided in zip(begin["steps"], told["steps"], strict=True)]
    return Subject(launch.script, "launch", (launch_facts(store, launch, begin, told),), tuple(steps))


def _planned(step: JsonObject, decided: JsonObject) -> Planned:
    inputs = step.get("inputs")
    told = step.get("told") or {}
    return Planned(step["name"], step["directory"], None if inputs is None else tuple(inputs), decided, told)


def launch_facts(store: Store, launch: Launch, begin: JsonObject, details: JsonObject) -> JsonObject:
    """`launches.details` without the steps, and with what only a report shows."""
    provenance = begin["launch"]
    packages = provenance.get("packages") or {}
    return {
        **{key: value for key, value in details.items() if key != "steps"},
        "python": provenance.get("python"),
        "versions": {name: packages[name] for name in _VERSIONS if name in packages},
        "packages": packages,
        "changed_files": _changed_files(store, provenance.get("git_diff")),
    }


def _changed_files(store: Store, diff: str | None) -> list[str] | None:
    """The names alone: only the user who launched may read the changes. None: there are some, which ones is unknown."""
    if not diff:
        return []
    try:
        text = (store.read(store.path(diff)) or b"").decode(errors="replace")
    except OSError:
        return None
    heads = (line for line in text.splitlines() if line.startswith("diff --git a/"))
    return sorted({line.rpartition(" b/")[2] for line in heads}) or None


def _of_step(store: Store, directory: str) -> Subject:
    """The step and all steps that its output was made from, inputs first, as the launches decided that made them."""
    records: dict[str, AttemptRecord | None] = {}
    level = [directory]
    while level:
        found = in_parallel(store, lambda where: newest_record(store, where, read_state(store, where)), level)
        records |= dict(zip(level, found, strict=True))
        used = (name for record in found if record for name in record.uses)
        level = [name for name in dict.fromkeys(used) if name not in records]
    runs = {where: str(record.run) for where, record in records.items() if record}
    decided = _decisions(store, set(runs.values()))
    uses = {where: record.uses if record else () for where, record in records.items()}
    steps = [
        Planned(step_name(where), where, uses[where], decided.get((runs.get(where), store.path(where)), {}))
        for where in inputs_first(uses)
    ]
    return Subject(
        step_name(directory), "step", _recorded(store, [runs[directory]] if directory in runs else []), tuple(steps)
    )


def _decisions(store: Store, runs: set[str]) -> dict[tuple[str | None, str], JsonObject]:
    """What each of the launches decided about each of its steps, by launch and path."""
    there = [launch for launch in read_launches(store) if launch.name in runs]
    told = zip(there, in_parallel(store, lambda launch: _details(store, launch), there), strict=True)
    return {(launch.name, step["path"]): step for launch, facts in told if facts for step in facts["steps"]}


def _details(store: Store, launch: Launch) -> JsonObject | None:
    try:
        return launches.details(store, launch)
    except DamagedFile:
        return None


def inputs_first(uses: dict[str, tuple[str, ...]]) -> list[str]:
    """The keys in an order in which each stands after those that it uses."""
    order: dict[str, None] = {}
    for root in uses:
        stack = [(root, False)]
        while stack:
            name, ready = stack.pop()
            if ready:
                order[name] = None
            elif name not in order:
                stack += [(name, True), *((used, False) for used in uses[name] if used in uses and used not in order)]
    return list(order)


def _of_experiment(store: Store, script: str) -> Subject:
    """The steps of the file as they would run now, with the newest launch of a file of that name."""
    plan = Executor(ExecutorFlags(prefix=store.prefix)).plan(list(steps_of(script))).plan
    steps = [
        Planned(
            item.node.name,
            item.node.directory,
            tuple(used.directory for used in item.node.uses),
            {"action": str(item.action), "reason": str(item.reason), "detail": item.detail, "diff": item.diff},
            _told(item.node.step),
        )
        for item in plan
    ]
    name = script.rpartition("/")[2].removesuffix(".py")
    newest = next((launch for launch in read_launches(store) if launch.script == name), None)
    return Subject(name, "experiment", _recorded(store, [newest.name] if newest else []), tuple(steps))


def _told(step: AnyStep) -> JsonObject:
    told = step.config.told() if isinstance(step.config, StepConfig) else None
    return dict(told or {})


def _recorded(store: Store, names: Iterable[str]) -> tuple[JsonObject, ...]:
    """The facts of the launches whose records are still there."""
    wanted = set(names)
    there = [launch for launch in read_launches(store) if launch.name in wanted]
    told = []
    for launch in there:
        try:
            begin = read_begin(store, launch)
            told.append(launch_facts(store, launch, begin, launches.details_of(store, launch, begin)))
        except DamagedFile:
            continue
    return tuple(told)
