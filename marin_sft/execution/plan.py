"""Graph + store + flags -> Plan: what will be done for each step, and why. Only reads.

RUN         the step runs
IF_CHANGED  the step has an output; it runs only if the output of a rerun input changes
WAIT        another launch is running the step; this one uses its output
SKIP        the step's output is used as it is, or is not needed
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from marin_sft.errors import DamagedFile, PreviousTaskFailedError, StoreError
from marin_sft.execution.attempt_record import sound_record
from marin_sft.execution.catalog import comparable_commits, in_parallel, read_states, step_name
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.commits import Commit
from marin_sft.execution.configs import settings_of
from marin_sft.execution.consumption import Consumption, changed_inputs, unconfirmed
from marin_sft.execution.contents import FilesOfFields, changed_files
from marin_sft.execution.differences import (
    Difference,
    difference_text,
    field_of_content,
    field_of_input,
    leaf_differences,
    with_names,
)
from marin_sft.execution.graph import Graph, Node
from marin_sft.execution.identity import SCHEMA, name_of_directory
from marin_sft.execution.selection import Selection, forced_nodes, nodes_in_scope, target_nodes
from marin_sft.execution.source import source_digest
from marin_sft.execution.step_state import StepState
from marin_sft.execution.store import Store
from marin_sft.execution.terminal import in_one_line

_SIBLINGS = 50  # committed siblings to compare with, to explain a miss


class Action(enum.StrEnum):
    RUN = "RUN"
    IF_CHANGED = "IF_CHANGED"
    WAIT = "WAIT"
    SKIP = "SKIP"


class Reason(enum.StrEnum):
    CACHED = "CACHED"
    GONE = "GONE"
    NEW = "NEW"
    CONFIG = "CONFIG"
    VERSION = "VERSION"
    UPSTREAM = "UPSTREAM"
    FORCED = "FORCED"
    RETRY = "RETRY"
    RESUME = "RESUME"
    RUNNING = "RUNNING"


@dataclass(frozen=True, eq=False)
class PlanItem:
    """One step of a plan.

    commit: its current output, of exactly this identity. None if the output is gone, though `state` has its commit.
    diff: the fields that differ, if the reason is CONFIG.
    """

    node: Node
    state: StepState
    commit: Commit | None
    action: Action
    reason: Reason
    detail: str = ""
    diff: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Every step of a launch, inputs first."""

    items: tuple[PlanItem, ...]
    store: Store

    def __iter__(self) -> Iterator[PlanItem]:
        return iter(self.items)

    @property
    def to_do(self) -> tuple[PlanItem, ...]:
        return tuple(item for item in self.items if item.action is not Action.SKIP)

    def output(self, item: PlanItem) -> str | None:
        """The committed attempt's path, or None."""
        return attempt_path(self.store, item.node.directory, item.commit.attempt) if item.commit else None

    def to_json(self) -> list[dict[str, object]]:
        return [
            {
                "name": item.node.name,
                "path": self.store.path(item.node.directory),
                "output": self.output(item),
                "action": str(item.action),
                "reason": str(item.reason),
                "detail": item.detail,
                "diff": [list(difference) for difference in item.diff],
            }
            for item in self.items
        ]


def make_plan(graph: Graph, store: Store, selection: Selection) -> Plan:
    """Decide every step of the graph.

    Raises:
        GraphError: a `force_run` name or `run_only` expression matches no step.
        PreviousTaskFailedError: a step to run failed earlier and `force_run_failed` is off.
        StoreError: a commit has the step's fingerprint but another payload.
    """
    forced = forced_nodes(graph, selection)
    scope = nodes_in_scope(graph, selection, forced)
    nodes = [node for node in graph if node in scope]
    read = read_states(store, [node.directory for node in nodes])
    states = {node: read[node.directory] for node in nodes}
    commits = {node: _valid_commit(node, states[node], store) for node in nodes}
    consumption = Consumption(store)
    found = _Found(store, consumption, states, commits)
    reruns, needed = _what_runs(nodes, found, forced, target_nodes(graph, selection))
    launch = _Launch(store, consumption, reruns, needed, {})
    for node in nodes:
        commit = commits[node] if reruns.get(node) is not Reason.GONE else None
        decide = _decide_committed if commit else _decide_missing
        action, reason, detail, diff = decide(node, states[node], launch)
        launch.items[node] = PlanItem(node, states[node], commit, action, reason, detail, diff)
    if not selection.force_run_failed:
        _refuse_retries(launch.items.values())
    return Plan(tuple(launch.items.values()), store)


Decision = tuple[Action, Reason, str, tuple[Difference, ...]]


@dataclass(frozen=True)
class _Launch:
    """What a step's decision depends on, besides its state. items: the steps decided so far, inputs first."""

    store: Store
    consumption: Consumption
    reruns: dict[Node, Reason]
    needed: set[Node]
    items: dict[Node, PlanItem]


def _decide_committed(node: Node, state: StepState, launch: _Launch) -> Decision:
    commit, rerun, items = state.commit, launch.reruns.get(node), launch.items
    assert commit is not None
    if rerun is Reason.FORCED:
        if state.running:
            return Action.WAIT, Reason.RUNNING, _running_text(state), ()
        detail = f"continues attempt {state.claim.number}" if state.claim else f"replaces commit {commit.number}"
        return Action.RUN, Reason.FORCED, detail, ()
    if rerun is Reason.UPSTREAM:
        inputs, of = {i.directory: items[i] for i in node.inputs if i in items}, launch.consumption.of
        current = {d: of(node, i.node, i.commit) for d, i in inputs.items() if i.commit}
        changed = changed_inputs(commit, current)
        if changed:
            return Action.RUN, Reason.UPSTREAM, f"new output of {inputs[changed[0].directory].node.name}", ()
        causes = [i for i in node.inputs if items[i].action in (Action.RUN, Action.IF_CHANGED, Action.WAIT)]
        return Action.IF_CHANGED, Reason.UPSTREAM, f"if the output of {causes[0].name} changes", ()
    return Action.SKIP, Reason.CACHED, _cached_text(node, state, commit), ()


def _decide_missing(node: Node, state: StepState, launch: _Launch) -> Decision:
    if node not in launch.needed:
        return Action.SKIP, Reason.CACHED, "not needed: the steps that use it are committed", ()
    claim = state.claim
    if claim is not None and state.running:
        return Action.WAIT, Reason.RUNNING, _running_text(state), ()
    if claim is not None and claim.fingerprint == node.fingerprint:
        if state.failure is not None:
            return Action.RUN, Reason.RETRY, f"attempt {claim.number} failed: {in_one_line(state.failure.error)}", ()
        return Action.RUN, Reason.RESUME, f"continues attempt {claim.number}", ()
    rerun = launch.reruns.get(node)
    if rerun is Reason.GONE and state.commit is not None:
        return Action.RUN, Reason.GONE, f"the output of commit {state.commit.number} is gone", ()
    if rerun is Reason.FORCED:
        return Action.RUN, Reason.FORCED, "", ()
    return _explain_miss(node, launch.items, launch.store)


def _cached_text(node: Node, state: StepState, commit: Commit) -> str:
    notes = []
    if state.claim is not None:
        if state.failure is not None:
            notes.append(f"forced rerun failed (attempt {state.claim.number}), commit {commit.number} stands")
        elif state.running:
            notes.append(f"forced rerun {_running_text(state)}")
        else:
            notes.append(f"forced rerun interrupted (attempt {state.claim.number}), --force_run again continues it")
    settings = leaf_differences(commit.settings, settings_of(node.step.config))
    if settings:
        notes.append(f"same result, different settings: {', '.join(map(difference_text, settings))}")
    source = source_digest(node.step.fn)
    if None not in (source, commit.source) and source != commit.source:
        notes.append("source changed since")
    return "; ".join(notes)


def _running_text(state: StepState) -> str:
    assert state.claim is not None
    beat = f", beat {max(0.0, time.time() - state.beat_time):.0f} s ago" if state.beat_time else ""
    return f"attempt {state.claim.number} by process {state.claim.owner.pid} on {state.claim.owner.host}{beat}"


def _explain_miss(node: Node, items: dict[Node, PlanItem], store: Store) -> Decision:
    """Why there is no output, by comparison with the nearest committed step of the same name."""
    siblings = _siblings(node, store)
    if not siblings:
        return Action.RUN, Reason.NEW, "", ()
    alike = [(directory, commit) for directory, commit in siblings if commit.payload["schema"] == SCHEMA]
    if not alike:
        schema = siblings[0][1].payload["schema"]
        return Action.RUN, Reason.VERSION, f"the format of identities changed: schema {schema} -> {SCHEMA}", ()
    directory, nearest = min(alike, key=lambda found: len(leaf_differences(found[1].payload, node.payload)))
    fields, inputs = _config_differences(node, nearest, lambda: _recorded_files(store, directory, nearest))
    if fields:
        return Action.RUN, Reason.CONFIG, "; ".join(difference_text(d) for d in fields), tuple(fields)
    old, new = ((payload["kind"], payload["version"]) for payload in (nearest.payload, node.payload))
    if old != new:
        return Action.RUN, Reason.VERSION, f"{old[0]} version {old[1]} -> {new[0]} version {new[1]}", ()
    return Action.RUN, Reason.UPSTREAM, _root_cause(node, inputs, items), ()


def _recorded_files(store: Store, directory: str, commit: Commit) -> FilesOfFields:
    """The local files that a commit's attempt used, as its record has them; empty if it does not say."""
    record = sound_record(store, directory, commit.attempt)
    return record.contents if record else {}


def _config_differences(
    node: Node, nearest: Commit, files_then: Callable[[], FilesOfFields]
) -> tuple[list[Difference], set[str]]:
    """The fields in which the configs differ, including inputs that are other steps; and the fingerprints of inputs
    that are the same steps with another identity. files_then: the local files that the nearest one used."""
    used = {node.fingerprint[:10]: node.directory for node in (*node.inputs, *node.nonblocking)}
    names = {**{consumed.directory[-10:]: consumed.directory for consumed in nearest.inputs}, **used}
    contents = {content.field.removeprefix("config").removeprefix("."): content for content in node.contents}
    fields: list[Difference] = []
    inputs: set[str] = set()
    for field, old, new in leaf_differences(nearest.payload["config"], node.payload["config"]):
        of_input, of_file = field_of_input(field), field_of_content(field)
        if of_file in contents:
            content = contents[of_file]
            which = changed_files(files_then().get(content.field, {}), dict(content.files)) if content.files else ""
            where = f"{content.location}: {which}" if which else content.location
            fields.append((f"{of_file} ({where}) content".lstrip(), str(old)[:10], str(new)[:10]))
            continue
        if of_input is None:
            fields.append((field, with_names(old, names), with_names(new, names)))
            continue
        before, after = names.get(str(old)[:10]), names.get(str(new)[:10])
        if before is None or after is None or step_name(before) == step_name(after):
            inputs.add(str(new))
        else:
            fields.append((of_input, before, after))
    return fields, inputs


def _root_cause(node: Node, changed: set[str], items: dict[Node, PlanItem]) -> str:
    """The first input with another identity, traced back to the step that was changed."""
    cause = next(i for i in (*node.inputs, *node.nonblocking) if i.fingerprint in changed)
    item = items.get(cause)
    if item is not None and item.reason is Reason.UPSTREAM:
        return item.detail
    return f"{cause.name}: {item.detail}" if item is not None and item.reason is Reason.CONFIG else cause.name


def _siblings(node: Node, store: Store) -> list[tuple[str, Commit]]:
    """Directories and commits of the same name, newest first; if the path is overridden, those of the same path."""
    parent, _, leaf = store.path(node.directory).rpartition("/")
    siblings = [d for d in store.names(parent) if name_of_directory(d) == node.name.rpartition("/")[2]]
    if node.step.override_output_path:
        siblings = [leaf]
    commits = comparable_commits(store, (f"{parent}/{sibling}" for sibling in siblings[:_SIBLINGS]))
    others = [found for found in commits.items() if found[1].fingerprint != node.fingerprint]
    return sorted(others, key=lambda found: found[1].time, reverse=True)


def _valid_commit(node: Node, state: StepState, store: Store) -> Commit | None:
    """The newest commit if it has this identity. An overridden path may hold that of another step."""
    commit = state.commit
    if commit is None:
        return None
    if commit.fingerprint != node.fingerprint:
        if node.step.override_output_path:
            return None
        raise DamagedFile(
            f"step '{node.name}': commit {commit.number} in {store.path(node.directory)} has the fingerprint "
            f"{commit.fingerprint}, expected {node.fingerprint}; restore it from a copy, or remove it"
        )
    if commit.payload != node.payload:
        raise StoreError(
            f"step '{node.name}': commit {commit.number} in {node.directory} has the fingerprint {commit.fingerprint} "
            f"but another payload; expected {node.payload}, got {commit.payload}. Remove that directory"
        )
    return commit


@dataclass(frozen=True)
class _Found:
    """What the store holds of the steps of a launch."""

    store: Store
    consumption: Consumption
    states: dict[Node, StepState]
    commits: dict[Node, Commit | None]

    def may_be_outdated(self, node: Node, commit: Commit) -> bool:
        """Whether the step used an input that has changed, or parts of one that may still change."""
        of = self.consumption.of
        current = {used.directory: of(node, used, c) for used in node.inputs if (c := self.commits.get(used))}
        states = {used.directory: self.states[used] for used in node.parts if used in self.states}
        return bool(changed_inputs(commit, current)) or unconfirmed(commit, states)


def _what_runs(
    nodes: list[Node], found: _Found, forced: set[Node], targets: set[Node]
) -> tuple[dict[Node, Reason], set[Node]]:
    """The steps that rerun, or may rerun, and the steps that are needed.

    Committed outputs are looked up only for needed steps. If one is gone, its step needs its inputs in turn.
    """
    store, commits = found.store, found.commits
    reruns = dict.fromkeys(forced, Reason.FORCED)
    seen: set[Node] = set()
    while True:
        reruns = _reruns(nodes, found, reruns)
        needed = _needed(nodes, commits, reruns, targets)
        open_nodes = [n for n in nodes if n in needed and n not in seen and commits[n] and n not in forced]
        if not open_nodes:
            return reruns, needed
        seen.update(open_nodes)
        there = in_parallel(store, lambda node: _is_there(store, node, commits[node]), open_nodes)
        reruns |= {node: Reason.GONE for node, is_there in zip(open_nodes, there, strict=True) if not is_there}


def _is_there(store: Store, node: Node, commit: Commit | None) -> bool:
    return commit is not None and bool(store.names(attempt_path(store, node.directory, commit.attempt)))


def _reruns(nodes: list[Node], found: _Found, known: Mapping[Node, Reason]) -> dict[Node, Reason]:
    """The committed steps that rerun, or may rerun: the `known` ones, and UPSTREAM those with a newer input."""
    reruns: dict[Node, Reason] = {}
    commits = found.commits
    for node in nodes:
        commit = commits[node]
        if node in known:
            reruns[node] = known[node]
        elif commit and (
            any(i in reruns and (commits.get(i) is not None or i in node.optional) for i in node.inputs)
            or found.may_be_outdated(node, commit)
        ):
            reruns[node] = Reason.UPSTREAM
    return reruns


def _needed(
    nodes: list[Node], commits: dict[Node, Commit | None], reruns: dict[Node, Reason], targets: set[Node]
) -> set[Node]:
    """The targets, the steps that rerun, and the inputs of all that run. A committed step does not need its inputs."""
    needed = {node for node in nodes if node in targets or node in reruns}
    for node in reversed(nodes):
        if node in needed and (node in reruns or commits[node] is None):
            needed.update(node.inputs)
    return needed


def _refuse_retries(items: Iterable[PlanItem]) -> None:
    for item in items:
        if item.reason is Reason.RETRY:
            raise PreviousTaskFailedError(
                f"step '{item.node.name}': {item.detail}; --force_run_failed=true runs it again"
            )
