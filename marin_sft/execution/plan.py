"""Graph + store + flags -> Plan: for each step what will be done, and why. Reads only.

RUN         the step runs
IF_CHANGED  the step has an output, and runs only if an input that runs first comes out different
WAIT        another launch is running the step; its output is used
SKIP        the step's output is used as it is, or nobody needs it
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from marin_sft.errors import PreviousTaskFailedError, StoreError
from marin_sft.execution.attempt import Commit, Consumed, StepState, attempt_path
from marin_sft.execution.catalog import read_states
from marin_sft.execution.fingerprint import Payload, leaf_differences, name_of_directory, settings_of, source_digest
from marin_sft.execution.graph import Graph, Node
from marin_sft.execution.selection import Selection, forced_nodes, nodes_in_scope, target_nodes
from marin_sft.execution.store import Store

Difference = tuple[str, Any, Any]
_SIBLINGS = 50  # committed siblings looked at to explain a miss


class Action(enum.StrEnum):
    RUN = "RUN"
    IF_CHANGED = "IF_CHANGED"
    WAIT = "WAIT"
    SKIP = "SKIP"


class Reason(enum.StrEnum):
    CACHED = "CACHED"
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
    """One step of a plan. `commit` is the output it has now, of exactly this identity; `diff` explains a CONFIG."""

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

    def to_json(self) -> list[dict[str, Any]]:
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
        GraphError: for a `force_run` name or `run_only` expression that matches no step.
        PreviousTaskFailedError: when a step to run failed earlier and `force_run_failed` is off.
        StoreError: when a commit's payload is not the one its fingerprint stands for.
    """
    forced = forced_nodes(graph, selection)
    scope = nodes_in_scope(graph, selection, forced)
    nodes = [node for node in graph if node in scope]
    read = read_states(store, [node.directory for node in nodes])
    states = {node: read[node.directory] for node in nodes}
    commits = {node: _valid_commit(node, states[node]) for node in nodes}
    reruns = _reruns(nodes, commits, forced)
    needed = _needed(nodes, commits, reruns, target_nodes(graph, selection))
    launch = _Launch(store, reruns, needed, {})
    for node in nodes:
        decide = _decide_committed if commits[node] else _decide_missing
        action, reason, detail, diff = decide(node, states[node], launch)
        launch.items[node] = PlanItem(node, states[node], commits[node], action, reason, detail, diff)
    if not selection.force_run_failed:
        _refuse_retries(launch.items.values())
    return Plan(tuple(launch.items.values()), store)


def changed_inputs(commit: Commit, current: Mapping[str, Consumed]) -> list[Consumed]:
    """The inputs that have a newer commit with other contents than the one consumed; unknown digests count as changed.

    An input that is missing, or was rebuilt under an old number, has not changed.
    """
    return [
        current[used.directory]
        for used in commit.inputs
        if used.directory in current
        and current[used.directory].commit > used.commit
        and (used.digest is None or current[used.directory].digest != used.digest)
    ]


Decision = tuple[Action, Reason, str, tuple[Difference, ...]]


@dataclass(frozen=True)
class _Launch:
    """What decides a step besides its own state. `items`: the steps decided so far, inputs first."""

    store: Store
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
        inputs = {i.node.directory: i for i in items.values()}
        current = {d: Consumed(d, i.commit.number, i.commit.digest) for d, i in inputs.items() if i.commit}
        changed = changed_inputs(commit, current)
        if changed:
            return Action.RUN, Reason.UPSTREAM, f"new output of {inputs[changed[0].directory].node.name}", ()
        causes = [i for i in node.inputs if items[i].action in (Action.RUN, Action.IF_CHANGED, Action.WAIT)]
        return Action.IF_CHANGED, Reason.UPSTREAM, f"if {causes[0].name} comes out different", ()
    return Action.SKIP, Reason.CACHED, _cached_text(node, state, commit), ()


def _decide_missing(node: Node, state: StepState, launch: _Launch) -> Decision:
    if node not in launch.needed:
        return Action.SKIP, Reason.CACHED, "not needed: what uses it is committed", ()
    claim = state.claim
    if claim is not None and state.running:
        return Action.WAIT, Reason.RUNNING, _running_text(state), ()
    if claim is not None and claim.fingerprint == node.fingerprint:
        if state.failure is not None:
            return Action.RUN, Reason.RETRY, f"attempt {claim.number} failed: {_first_line(state.failure.error)}", ()
        return Action.RUN, Reason.RESUME, f"continues attempt {claim.number}", ()
    if launch.reruns.get(node) is Reason.FORCED:
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
    """Why there is no output: compare with the nearest committed sibling of the same name."""
    siblings = _sibling_payloads(node, store)
    if not siblings:
        return Action.RUN, Reason.NEW, "", ()
    nearest = min(siblings, key=lambda payload: len(leaf_differences(payload, node.payload)))
    config = [
        difference
        for difference in leaf_differences(nearest["config"], node.payload["config"])
        if not difference[0].endswith("$input")
    ]
    if config:
        return Action.RUN, Reason.CONFIG, "; ".join(difference_text(d) for d in config), tuple(config)
    if (nearest["kind"], nearest["version"]) != (node.payload["kind"], node.payload["version"]):
        old, new = (f"{p['kind']} version {p['version']}" for p in (nearest, node.payload))
        return Action.RUN, Reason.VERSION, f"{old} -> {new}", ()
    return Action.RUN, Reason.UPSTREAM, _root_cause(node, nearest, items), ()


def _root_cause(node: Node, nearest: Payload, items: dict[Node, PlanItem]) -> str:
    """The first input with another identity, followed up to the step where the change was made."""
    new = set(node.payload["inputs"]) - set(nearest["inputs"])  # of the inputs that count; not all of them do
    changed = [i for i in (*node.inputs, *node.nonblocking) if i.fingerprint in new and i in items]
    if not changed:
        return "other inputs"
    cause = items[changed[0]]
    if cause.reason is Reason.UPSTREAM:
        return cause.detail
    return f"{cause.node.name}: {cause.detail}" if cause.reason is Reason.CONFIG else f"{cause.node.name}"


def _sibling_payloads(node: Node, store: Store) -> list[Payload]:
    """Payloads of committed outputs of the same name, newest first; of the same path if that is overridden."""
    parent, _, leaf = store.path(node.directory).rpartition("/")
    siblings = [d for d in store.names(parent) if name_of_directory(d) == node.name.rpartition("/")[2]]
    if node.step.override_output_path:
        siblings = [leaf]
    states = read_states(store, (f"{parent}/{sibling}" for sibling in siblings[:_SIBLINGS])).values()
    commits = [state.commit for state in states if state.commit and state.commit.fingerprint != node.fingerprint]
    return [commit.payload for commit in sorted(commits, key=lambda c: c.time, reverse=True)]


def difference_text(difference: Difference, limit: int = 40) -> str:
    """`learning_rate 0.001 -> 0.002`."""
    field, old, new = difference
    short = [text if len(text) <= limit else f"{text[:limit]}..." for text in (_text(old), _text(new))]
    return f"{field} {short[0]} -> {short[1]}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else repr(value)


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _valid_commit(node: Node, state: StepState) -> Commit | None:
    """The newest commit if it is of this identity; an overridden path may hold another step's."""
    commit = state.commit
    if commit is None or commit.fingerprint != node.fingerprint:
        return None
    if commit.payload != node.payload:
        raise StoreError(
            f"step '{node.name}': commit {commit.number} in {node.directory} has the fingerprint {commit.fingerprint} "
            f"but another payload; expected {node.payload}, got {commit.payload}. Remove that directory"
        )
    return commit


def _reruns(nodes: list[Node], commits: dict[Node, Commit | None], forced: set[Node]) -> dict[Node, Reason]:
    """The steps that rerun, or may rerun, although nothing is missing: FORCED, or UPSTREAM of a newer output."""
    reruns: dict[Node, Reason] = {}
    current = {n.directory: Consumed(n.directory, c.number, c.digest) for n, c in commits.items() if c}
    for node in nodes:
        commit = commits[node]
        if node in forced:
            reruns[node] = Reason.FORCED
        elif commit and (
            changed_inputs(commit, current) or any(i in reruns and commits.get(i) is not None for i in node.inputs)
        ):
            reruns[node] = Reason.UPSTREAM
    return reruns


def _needed(
    nodes: list[Node], commits: dict[Node, Commit | None], reruns: dict[Node, Reason], targets: set[Node]
) -> set[Node]:
    """The targets, what reruns, and the inputs of whatever has to run; a committed step needs no input."""
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
