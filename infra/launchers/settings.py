"""What all launcher files share: the environment of a Ray node, and the sizes of hosts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from marin_sft.execution.failure_detection import FAILURE_DETECTION

ROOT = Path(__file__).parents[2]

# A node that gets SIGTERM drains for this long: running steps save a checkpoint, then it ends.
DRAIN_SECONDS = 150
RAY_NODE = {
    **FAILURE_DETECTION,
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_SECONDS),
}

GCS_PORT = 6379
METRICS_PORT = 8080  # scraped by Prometheus

# Ray's autoscaler starts any host on which a request fits, and prefers the one that it fills most. So
# all hosts offer the same CPUs and memory, and CPU hosts never run out: no accelerator starts for a request for CPUs
# alone. tests/infra tries it. This is what Ray counts; a process may use all that its host has.
HOST_CPUS = 16
HOST_MEMORY = 44 * 10**9  # bytes; of a CPU host with 64 GB, less what Ray's objects and the system need
CPU_HOST_MACHINE = f"n2-standard-{HOST_CPUS}"
IDLE_MINUTES = 15


def ray_version() -> str:
    """The version that the package requires: all nodes and clients must have the same."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    found = [re.fullmatch(r"ray\[default\]==(\S+)", line) for line in dependencies]
    return next(match.group(1) for match in found if match)
