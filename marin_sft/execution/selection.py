"""The steps that the flags of a launch select."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from marin_sft.errors import GraphError
from marin_sft.execution.graph import Graph, Node
from marin_sft.nearest import nearest_text


@dataclass(frozen=True)
class Selection:
    """The flags that select steps. force_run: names or globs. run_only: regular expressions.

    done: directories of steps that need not be forced, since an earlier launch of the same plan did so.
    """

    force_run: tuple[str, ...] = ()
    cascade: bool = False
    run_only: tuple[str, ...] = ()
    force_run_failed: bool = True
    done: frozenset[str] = frozenset()


def check_selection(graph: Graph, selection: Selection) -> None:
    """Raises GraphError if a name or expression matches no step, or a flag does nothing."""
    forced_nodes(graph, selection)
    target_nodes(graph, selection)


def forced_nodes(graph: Graph, selection: Selection) -> set[Node]:
    """The steps of `force_run`; with `cascade` also all steps that depend on them, of those that `run_only` selects and
    their inputs.

    Raises:
        GraphError: a name or glob matches no step; `cascade` without `force_run`.
    """
    names = [node.name for node in graph]
    if selection.cascade and not selection.force_run:
        raise GraphError(
            "--cascade does nothing without --force_run: it adds the steps that depend on those which that names"
        )
    forced: set[Node] = set()
    for pattern in selection.force_run:
        matched = {node for node in graph if fnmatch.fnmatchcase(node.name, pattern)}
        if not matched:
            raise GraphError(f"--force_run {pattern!r}: no step has that name{nearest_text(pattern, names)}")
        forced |= matched
    if selection.cascade:
        selected = _with_inputs(graph, target_nodes(graph, selection)) if selection.run_only else set(graph.nodes)
        for node in graph:
            if node in selected and any(upstream in forced for upstream in node.inputs):
                forced.add(node)
    return {node for node in forced if node.directory not in selection.done}


def target_nodes(graph: Graph, selection: Selection) -> set[Node]:
    """The steps whose outputs are requested: those of `run_only`, else those that the launch lists.

    Raises:
        GraphError: an expression is invalid or matches no step.
    """
    if not selection.run_only:
        return set(graph.roots)
    names = [node.name for node in graph]
    targets: set[Node] = set()
    for pattern in selection.run_only:
        try:
            matched = {node for node in graph if re.search(pattern, node.name)}
        except re.error as error:
            raise GraphError(f"--run_only {pattern!r}: not a regular expression: {error}") from None
        if not matched:
            raise GraphError(f"--run_only {pattern!r}: matches no step{nearest_text(pattern, names)}")
        targets |= matched
    return targets


def nodes_in_scope(graph: Graph, selection: Selection, forced: set[Node]) -> set[Node]:
    """All steps; with --run_only the selected and forced ones, and all their inputs."""
    if not selection.run_only:
        return set(graph.nodes)
    return _with_inputs(graph, target_nodes(graph, selection) | forced)


def _with_inputs(graph: Graph, nodes: set[Node]) -> set[Node]:
    found = set(nodes)
    for node in reversed(graph.nodes):
        if node in found:
            found.update(node.inputs)
    return found
