"""Whether all nodes of a Ray cluster share the prefix. Asked before a launch runs anything: with a directory per host,
the output of a step would be gone for every step on another host."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from marin_sft.errors import StoreError
from marin_sft.execution.store import Store
from marin_sft.execution.stores import open_store

_PATIENCE = 20.0  # seconds for a node to start a process; one that has not by then is not judged


def check_shared(ray: ModuleType, store: Store) -> list[str]:
    """Nodes that join later are not asked. Returns the hosts that gave no answer.

    Raises:
        StoreError: a host sees another directory, or cannot write to this one.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2 or not store.on_disk:
        return []
    found = hosts_without(ray, store, nodes)
    problems = [f"{host} {problem}" for host, problem in found if problem is not None]
    if problems:
        more = f" (so do {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise StoreError(
            f"prefix {store.prefix}: host {problems[0]}{more}. All nodes of a cluster need the same prefix: choose a "
            "directory that they share, or a URL such as gs://bucket/path, with --prefix"
        )
    return [host for host, problem in found if problem is None]


def hosts_without(ray: ModuleType, store: Store, nodes: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    """The hosts where something is wrong with the prefix, and what it is; None: the host gave no answer."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Pinned

    folder = store.path(f"_probe/{uuid.uuid4().hex}")
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    try:
        store.create_exclusive(f"{folder}/launch", b"")
        asked = [
            look.options(name="check of the prefix", scheduling_strategy=Pinned(node["NodeID"], soft=False)).remote(
                store.prefix, folder, node["NodeID"]
            )
            for node in nodes
        ]
        ended, _ = ray.wait(asked, num_returns=len(asked), timeout=_PATIENCE)
        found = [_answer(ray, reference, reference in ended) for reference in asked]
        written = store.names(folder)
    finally:
        store.remove(folder)
        store.prune(store.path("_probe"))
    for index, node in enumerate(nodes):
        if found[index] == "" and node["NodeID"] not in written:
            found[index] = "writes to another directory: what it writes is not seen here"
    return [(name_of(node), problem) for node, problem in zip(nodes, found, strict=True) if problem != ""]


def name_of(node: Mapping[str, Any]) -> str:
    """For people: `node3 (10.0.0.3)`."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _answer(ray: ModuleType, reference: object, ended: bool) -> str | None:
    try:
        return ray.get(reference) if ended else None
    except ray.exceptions.RayError:  # the node was lost
        return None


def _look(prefix: str, folder: str, node: str) -> str:
    """On a node: what is wrong there, or an empty string."""
    store = open_store(prefix)
    try:
        if store.read(f"{folder}/launch") is None:  # and write nothing to it
            return "sees another directory there: a file that this launch has written is missing"
        store.create_exclusive(f"{folder}/{node}", b"")
    except OSError as error:
        return f"cannot use it: {error.strerror or error}"
    return ""
