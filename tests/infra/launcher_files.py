"""The files of infra/, what writes them, and what judges them."""

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
from ray.scripts import scripts

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
sys.path.insert(0, str(INFRA))

import make  # noqa: E402, F401

_SCHEMAS = Path(__file__).with_name("schemas")


def schema(name: str) -> dict[str, Any]:
    """A published schema in which each object takes only the keys that it names, unless it says otherwise."""
    found = json.loads((_SCHEMAS / f"{name}.json").read_text())
    _close(found)
    return found


def _close(part: Any) -> None:
    if isinstance(part, dict):
        keys = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"}
        if "properties" in part and part.get("type") == "object" and not keys & part.keys():
            part["additionalProperties"] = False
        for value in part.values():
            _close(value)
    elif isinstance(part, list):
        for value in part:
            _close(value)


def faults(content: Any, of: dict[str, Any]) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(of).iter_errors(content)]


def with_key(content: dict[str, Any], path: Iterable[str | int], value: Any) -> dict[str, Any]:
    """A copy in which the key at `path` is added."""
    changed = copy.deepcopy(content)
    *parents, last = path
    part: Any = changed
    for key in parents:
        part = part[key]
    part[last] = value
    return changed


def launched(config: dict[str, Any], demands: list[dict[str, float]]) -> dict[str, int]:
    """The node types that Ray's autoscaler would start besides the head, as its monitor computes them.

    config: the autoscaler's, prepared. demands: the requests that wait.
    """
    types, head = config["available_node_types"], config["head_node_type"]
    scheduler = ResourceDemandScheduler(None, types, config["max_workers"], head, config.get("upscaling_speed", 1.0))
    found, _ = scheduler.get_nodes_to_launch([], {}, demands, {}, [], {}, [], NodeAvailabilitySummary({}))
    return {name: count for name, count in found.items() if name != head}


# Requests for CPUs alone: few, many, small, as large as a host, more than there may be hosts for, and too large.
CPU_DEMANDS = [
    [{"CPU": 1.0}] * 100,
    [{"CPU": 1.0}] * 1000,
    [{"CPU": 8.0}] * 500,
    [{"CPU": 16.0}] * 900 + [{"CPU": 1.0}] * 100,
    [{"CPU": 0.5, "memory": 40e9}],
    [{"CPU": 17.0}],
    [{"CPU": 1.0, "memory": 100e9}],
]


def fits_a_cpu_host(demand: dict[str, float]) -> bool:
    return demand["CPU"] <= 16 and demand.get("memory", 0) <= 44e9


def unknown_to_ray_start(text: str) -> set[str]:
    """The options in a piece of a script that `ray start` does not have."""
    known = {option for parameter in scripts.start.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return set(re.findall(r"--[a-z][\w-]*", text)) - known


def lint(tool: str, *options: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run a linter of .venv on standard input."""
    path = shutil.which(tool, path=str(Path(sys.executable).parent))
    assert path, f"no {tool} next to {sys.executable}; `make env-dev` installs it"
    return subprocess.run([path, *options, "-"], input=text, capture_output=True, text=True, timeout=60)
