"""What there is on a Ray cluster: its nodes, and what of them is reserved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from marin_sft.execution.ray_connection import Connection
from marin_sft.execution.tables import print_table
from marin_sft.run.cluster_driver import is_head, live_nodes
from marin_sft.run.status import age_text

_FIRST = ("CPU", "GPU", "TPU", "memory")
_HIDDEN = ("node:", "object_store_memory", "accelerator_type:")


@dataclass(frozen=True)
class NodeStatus:
    """resources: of each, what is reserved and what there is. draining: seconds until the node is taken away; 0: not
    known when; None: it stays."""

    host: str
    address: str
    head: bool
    resources: Mapping[str, tuple[float, float]]
    draining: float | None


def read_nodes(connection: Connection) -> list[NodeStatus]:
    from ray._private.state import state

    free, draining = state.available_resources_per_node(), state.get_draining_nodes()
    found = []
    for node in live_nodes(connection.ray):
        left = free.get(node["NodeID"], {})
        shown = {name: amount for name, amount in node["Resources"].items() if not name.startswith(_HIDDEN)}
        ends = draining.get(node["NodeID"])
        found.append(
            NodeStatus(
                host=node["NodeManagerHostname"],
                address=node["NodeManagerAddress"],
                head=is_head(node),
                resources={name: (shown[name] - left.get(name, 0.0), shown[name]) for name in _in_order(shown)},
                draining=None if ends is None else max(0.0, ends / 1000 - time.time()) if ends else 0.0,
            )
        )
    return found


def _in_order(names: Mapping[str, float]) -> list[str]:
    return sorted(names, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))


def print_nodes(console: Console, nodes: list[NodeStatus]) -> None:
    rows = [(f"{node.host} ({node.address})", _state(node), _resources(node)) for node in nodes]
    print_table(console, ("node", "state", "reserved of"), rows)


def _state(node: NodeStatus) -> Text:
    if node.draining is not None:
        ends = f", {age_text(node.draining)} left" if node.draining else ""
        return Text(f"draining{ends}", style="bold yellow")
    return Text("head" if node.head else "worker")


def _resources(node: NodeStatus) -> str:
    return ", ".join(_amount(name, *amounts) for name, amounts in node.resources.items()) or "nothing"


def _amount(name: str, used: float, total: float) -> str:
    if name == "memory":
        return f"memory {used / 2**30:.1f}/{total / 2**30:.1f} GiB"
    return f"{name} {used:g}/{total:g}"
