"""The DAG of a launch's steps: collected, ordered, fingerprinted and checked. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from marin_sft.errors import ConfigError, GraphError
from marin_sft.execution.configs import references
from marin_sft.execution.contents import LocalContent
from marin_sft.execution.differences import leaf_differences
from marin_sft.execution.identity import Payload, fingerprint_of_payload, payload_of
from marin_sft.execution.resources import check_resources, hosts_of
from marin_sft.execution.source import source_digest
from marin_sft.execution.step import AnyStep, ExecutorStep, InputName, kind_of, path_of_function
from marin_sft.redaction import has_token

_NAME_BYTES = 255
_LONGEST_CYCLE = 12  # steps in a message
_PATH_BYTES = 900  # S3 and GCS allow 1,024 for a whole key


@dataclass(frozen=True, eq=False)
class Node:
    """A step with its place in the DAG.

    directory: relative to the prefix, unless the step overrides it with an absolute path or a URL.
    inputs: the steps it waits for, without duplicates, in config order.
    optional: those of the inputs without which it runs, too, if they fail.
    nonblocking: the steps it uses without waiting, also once each.
    contents: the local files in its config.
    reads_logs_of: the directories of inputs whose log it uses by a file's name.
    parts: the inputs that it uses before they end, with the parts of their outputs that it uses.
    """

    step: AnyStep
    fingerprint: str
    payload: Payload
    directory: str
    inputs: tuple[Node, ...]
    optional: frozenset[Node]
    nonblocking: tuple[Node, ...]
    contents: tuple[LocalContent, ...]
    reads_logs_of: frozenset[str]
    parts: dict[Node, tuple[str, ...]]

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def uses(self) -> tuple[Node, ...]:
        """All steps that it uses, whether it waits for them or not."""
        return (*self.inputs, *self.nonblocking)

    def __repr__(self) -> str:
        return f"Node({self.directory!r})"


@dataclass(frozen=True)
class Graph:
    """All steps reachable from the requested ones, inputs first."""

    nodes: tuple[Node, ...]
    roots: tuple[Node, ...]
    _by_step: dict[int, Node]

    def node(self, step: AnyStep) -> Node:
        return self._by_step[id(step)]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)


def build_graph(steps: Iterable[AnyStep]) -> Graph:
    """Collect, order and fingerprint `steps` and everything they use.

    Equal steps (same name, same identity) become one node.

    Raises:
        ConfigError: a config value that cannot be part of an identity, or invalid resources.
        GraphError: a cycle, two different steps with one path, or two functions of one kind.
    """
    if isinstance(steps, ExecutorStep):
        raise GraphError(f"steps: expected a list of steps, got the step {steps.name!r}; write steps=[...]")
    if not isinstance(steps, Iterable):
        raise GraphError(f"steps: expected a list of steps, got {steps!r}; write steps=[...]")
    roots = list(steps)
    for i, root in enumerate(roots):
        if not isinstance(root, ExecutorStep):
            raise GraphError(f"steps[{i}]: expected an ExecutorStep, got {type(root).__qualname__}: {root!r}")
    by_step: dict[int, Node] = {}
    by_directory: dict[str, Node] = {}
    for step in _inputs_first(roots):
        node = _make_node(step, by_step)
        known = by_directory.setdefault(node.directory, node)
        if known is not node:
            _check_same(known, node)
        by_step[id(step)] = known
    nodes = tuple(by_directory.values())
    _check_kinds(nodes)
    return Graph(nodes, tuple(dict.fromkeys(by_step[id(root)] for root in roots)), by_step)


def _make_node(step: AnyStep, by_step: dict[int, Node]) -> Node:
    names = [(by_step[id(ref.step)], ref) for _, ref in references(step.config)]
    used = [(node, ref.block_on_step) for node, ref in names]
    inputs = tuple(dict.fromkeys(node for node, blocking in used if blocking))
    needed = {node for node, ref in names if not ref.is_optional}
    nonblocking = tuple(dict.fromkeys(node for node, blocking in used if not blocking and node not in inputs))
    check_resources(f"step '{step.name}' resources", step.resources)
    contents: list[LocalContent] = []
    payload = payload_of(step, lambda upstream: by_step[id(upstream)].fingerprint, contents)
    _check_hosts(step)
    _refuse_secrets(step.name, payload["config"], "config")
    fingerprint = fingerprint_of_payload(payload)
    directory = (step.override_output_path or f"{step.name}-{fingerprint[:10]}").rstrip("/")
    _check_lengths(step.name, directory)
    logs = {node.directory for node, ref in names if ref.name and kind_of(node.step.fn).has_log_at(ref.name)}
    parts = _parts([(node, ref) for node, ref in names if ref.block_on_step])
    optional = frozenset(inputs) - needed
    return Node(
        step, fingerprint, payload, directory, inputs, optional, nonblocking, tuple(contents), frozenset(logs), parts
    )


def _parts(names: list[tuple[Node, InputName]]) -> dict[Node, tuple[str, ...]]:
    """The parts of each input that is used only in parts, all of them early."""
    waits = {node for node, ref in names if not ref.is_early}
    parts: dict[Node, tuple[str, ...]] = {}
    for node, ref in names:
        if node not in waits:
            parts[node] = tuple(sorted({*parts.get(node, ()), ref.name or ""}))
    return parts


def _check_hosts(step: AnyStep) -> None:
    if kind_of(step.fn).one_host and (hosts := hosts_of(step.resources)) > 1:
        raise ConfigError(
            f"step '{step.name}' resources: {step.resources} has {hosts} hosts, but a step of kind "
            f"'{kind_of(step.fn).kind}' runs on one; expected a request for one host"
        )


def _check_lengths(name: str, directory: str) -> None:
    """File systems limit the length of names, object stores that of keys. Fail now rather than when the step runs."""
    longest = max(directory.split("/"), key=lambda part: len(part.encode()))
    for text, limit in ((longest, _NAME_BYTES), (directory, _PATH_BYTES)):
        if len(text.encode()) > limit:
            raise GraphError(
                f"step {name[:60]!r}...: its output path {text[:60]!r}... has {len(text.encode())} bytes; expected "
                f"at most {limit}{' between two slashes' if limit == _NAME_BYTES else ''}. Give the step a shorter name"
            )


def _refuse_secrets(step: str, value: object, path: str) -> None:
    if isinstance(value, dict):
        for key, child in value.items():
            _refuse_secrets(step, child, f"{path}.{key}")
    elif isinstance(value, list):
        for i, child in enumerate(value):
            _refuse_secrets(step, child, f"{path}[{i}]")
    elif isinstance(value, str) and has_token(value):
        raise ConfigError(
            f"step '{step}' {path}: looks like a secret, and everyone who can read the store can read configs; "
            "let the step's function take it from the environment (ray_run --env_vars NAME)"
        )


def _inputs_first(roots: list[AnyStep]) -> list[AnyStep]:
    """Depth-first order, without recursion so that chains of thousands of steps work."""
    order: list[AnyStep] = []
    done: set[int] = set()
    open_steps: dict[int, AnyStep] = {}
    for root in roots:
        if id(root) in done:
            continue
        stack = [(root, iter(_upstream(root)))]
        open_steps[id(root)] = root
        while stack:
            step, upstream = stack[-1]
            following = next((u for u in upstream if id(u) not in done), None)
            if following is None:
                stack.pop()
                del open_steps[id(step)]
                done.add(id(step))
                order.append(step)
            elif id(following) in open_steps:
                raise GraphError(f"cycle: {_cycle_text(list(open_steps.values()), following)}")
            else:
                stack.append((following, iter(_upstream(following))))
                open_steps[id(following)] = following
    return order


def _upstream(step: AnyStep) -> list[AnyStep]:
    try:
        return [ref.step for _, ref in references(step.config) if ref.step is not None]
    except ConfigError as error:
        raise ConfigError(f"step '{step.name}' {error}") from None


def _cycle_text(path: list[AnyStep], start: AnyStep) -> str:
    names = [step.name for step in path[path.index(start) :]]
    shown = [f"'{name}'" for name in (*names, start.name)]
    if len(shown) > _LONGEST_CYCLE:
        shown[3:-3] = [f"... {len(shown) - 6:,} more"]
    return " uses ".join(shown)


def _check_same(known: Node, node: Node) -> None:
    if known.fingerprint == node.fingerprint:
        return
    differences = leaf_differences(known.payload, node.payload)
    fields = "; ".join(f"{field}: {old!r} and {new!r}" for field, old, new in differences[:3])
    raise GraphError(
        f"two different steps have the path '{known.directory}': '{known.name}' and '{node.name}' differ in {fields}. "
        "Give one of them another override_output_path"
    )


def _check_kinds(nodes: Iterable[Node]) -> None:
    """If two functions had one kind, their different outputs would look the same to the steps that use them."""
    functions: dict[str, Node] = {}
    for node in nodes:
        kind = kind_of(node.step.fn).kind
        other = functions.setdefault(kind, node)
        if not _same_function(other.step.fn, node.step.fn):
            raise GraphError(
                f"steps '{other.name}' and '{node.name}' run different functions with the same kind '{kind}' "
                f"({path_of_function(other.step.fn)} and {path_of_function(node.step.fn)}): name one of them with "
                '@step_fn(kind="...")'
            )


def _same_function(one: Callable[..., object], other: Callable[..., object]) -> bool:
    # A script that another module imports exists twice, as __main__ and under its name. So compare the source.
    return one == other or source_digest(one) is not None and source_digest(one) == source_digest(other)
