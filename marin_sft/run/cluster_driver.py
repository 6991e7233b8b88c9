"""A connection of `marin-sft cluster` to a Ray cluster, as a driver of it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

from marin_sft.errors import UserError
from marin_sft.execution import ray_connection
from marin_sft.execution.ray_connection import Connection
from marin_sft.run.cluster import NO_CLUSTER, read_head

QUESTION = "marin_sft_question"  # in the metadata of a driver that asks about the cluster and runs nothing for a user


def address_of_cluster(given: str | None) -> str:
    """`given`, $RAY_ADDRESS, or the head that `marin-sft cluster up` started.

    Raises:
        UserError: there is none of them, nothing answers there, or it is that of a dashboard.
    """
    head = read_head()
    address = given or os.environ.get("RAY_ADDRESS") or (head.address if head else None)
    if address is None:
        raise UserError(NO_CLUSTER)
    if "://" in address:
        raise UserError(
            f"{address} is a dashboard; expected the address of the head, e.g. 10.0.0.2:6379. From elsewhere, "
            f"let a job ask: python -m marin_sft.run.ray_run --address {address} -- marin-sft cluster doctor"
        )
    host, _, port = address.rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(f"no Ray answers at {address}: {error}; check --address or RAY_ADDRESS") from None
    return address


@contextlib.contextmanager
def connected(address: str) -> Iterator[Connection]:
    """Raises UserError if this machine is no node of the cluster."""
    os.environ["RAY_ADDRESS"] = address
    connection = ray_connection.connect({QUESTION: "1"})
    try:
        yield connection
    finally:
        connection.close()


def live_nodes(ray: Any) -> list[dict[str, Any]]:
    """The head first."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return sorted(nodes, key=lambda node: (not is_head(node), node["NodeManagerAddress"], node["NodeID"]))


def is_head(node: dict[str, Any]) -> bool:
    return "node:__internal_head__" in node["Resources"]
