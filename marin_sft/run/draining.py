"""Tell a Ray cluster that hosts will be taken away, so that the steps on them save a checkpoint and give way.

    python -m marin_sft.run.draining --address HEAD:6379 --seconds 100

That drains the Ray nodes of this host; `--all` drains every node of the cluster. What runs goes on until it ends by
itself, nothing new starts, and a node that has nothing left to do ends. With `--wait`, the command returns when all
that it drained have ended, or after `--seconds`.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Collection, Sequence

from ray._raylet import GcsClient  # type: ignore[attr-defined]  # its stub leaves it out
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
from ray.core.generated.gcs_pb2 import GcsNodeInfo

_LOOK_EVERY = 0.5
_PATIENCE = 5  # seconds for one answer of the cluster


def drain(address: str, message: str, seconds: float, everywhere: bool = False) -> list[str]:
    """Mark Ray nodes as about to be taken away in `seconds`, and return their ids: those of this host, or all.

    Raises:
    RuntimeError: the cluster at `address` does not answer, or refuses.
    """
    client = GcsClient(address=address)
    nodes = [node for node, at in _alive(client).items() if everywhere or _is_here(at)]
    deadline = int((time.time() + seconds) * 1000)
    for node in nodes:
        accepted, why = client.drain_node(node, DRAIN_NODE_REASON_PREEMPTION, message, deadline, timeout=_PATIENCE)
        if not accepted:
            raise RuntimeError(f"Ray at {address} does not drain its node {node}: {why}")
    return nodes


def wait_for_end(address: str, nodes: Collection[str], seconds: float) -> list[str]:
    """Wait until these nodes have ended, at most `seconds`. Returns those that are still alive."""
    client, end = GcsClient(address=address), time.monotonic() + seconds
    while (left := [node for node in nodes if node in _alive(client)]) and time.monotonic() < end:
        time.sleep(_LOOK_EVERY)
    return left


def _alive(client: GcsClient) -> dict[str, str]:
    """The ids of all nodes, and their addresses."""
    nodes = client.get_all_node_info(timeout=_PATIENCE).values()
    return {node.node_id.hex(): node.node_manager_address for node in nodes if node.state == GcsNodeInfo.ALIVE}


def _is_here(address: str) -> bool:
    """Whether an IP address is one of this host's: only those can be bound."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m marin_sft.run.draining", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="host:port of the head; $RAY_ADDRESS")
    parser.add_argument("--seconds", type=float, default=30, help="until the hosts are gone")
    parser.add_argument("--message", default="the host will be taken away", help="for Ray's logs")
    parser.add_argument("--all", action="store_true", help="drain every node, not only those of this host")
    parser.add_argument("--wait", action="store_true", help="until the drained nodes have ended")
    asked = parser.parse_args(arguments)
    if not asked.address:
        parser.error("--address: got nothing, expected host:port of the head, or RAY_ADDRESS in the environment")
    nodes = drain(asked.address, asked.message, asked.seconds, asked.all)
    print(f"draining {len(nodes)} Ray nodes: {asked.message}", flush=True)
    if not nodes:
        print(f"no node of the cluster at {asked.address} is on this host; --all drains every node", file=sys.stderr)
        return 1
    left = wait_for_end(asked.address, nodes, asked.seconds) if asked.wait else []
    for node in left:
        print(f"Ray node {node} still has something to do after {asked.seconds:g} s", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
