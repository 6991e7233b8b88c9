"""Reserves the hosts of a step on Ray: all of them, or none."""

from __future__ import annotations

import contextlib
import math
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from marin_sft.errors import InfrastructureLoss
from marin_sft.execution.resources import Resources, TpuPodConfig, demand, hosts_of, tpu_head, tpu_slice

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

# Ray's labels of the nodes of a TPU slice
SLICE, WORKER, POD = "ray.io/tpu-slice-name", "ray.io/tpu-worker-id", "ray.io/tpu-pod-type"

SLICE_SECONDS = 120.0  # for all hosts of a slice to join after its first; then another slice is tried
HOLD_SECONDS = 300.0  # to hold some slices while waiting for the others; about, so that two steps differ
FREE_SECONDS = 300.0  # for the hosts of a reserved slice to be free
_LOOK = 1.0  # seconds between two looks at the nodes

Tell = Callable[[str], None]
"""Receives what a reservation waits for, each time that it has waited a little longer."""


@dataclass(frozen=True)
class Host:
    """A reserved host. bundle: its place in the group. variables: for the environment of the process on it."""

    group: PlacementGroup
    bundle: int
    variables: Mapping[str, str]


@contextlib.contextmanager
def reserved(resources: Resources, name: str, tell: Tell) -> Iterator[list[Host]]:
    """Wait for all hosts of a request and hold them inside the block; one `Host` per rank, in order.

    name: of the reservation, see `release`. No two may exist with the same name.

    Raises:
        InfrastructureLoss: hosts of a TPU slice were lost, or not free in time.
    """
    try:
        yield _slices(resources, name, tell) if isinstance(resources, TpuPodConfig) else _any(resources, name, tell)
    finally:
        release(name)


def release(name: str) -> None:
    """Give back what is reserved under a name, also by a process that can no longer do it itself."""
    import ray
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    if not ray.is_initialized():
        return
    for key, about in placement_group_table().items():
        if about["name"].startswith(f"{name}/") and about["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(key))))


def _member(reservation: str) -> str:
    """A name for a placement group of a reservation; Ray wants each to be unique."""
    return f"{reservation}/{uuid.uuid4().hex}"


def _any(resources: Resources, name: str, tell: Tell) -> list[Host]:
    """CPU or GPU hosts: any that have what is requested."""
    from ray.util.placement_group import placement_group

    asked, count = demand(resources), hosts_of(resources)
    group = placement_group([asked] * count, strategy="STRICT_SPREAD", name=_member(name))
    while not group.wait(_LOOK):
        tell(f"waits for {count} free hosts, each with {_amounts(asked)}; the cluster has {_able(asked)} of this size")
    return [Host(group, rank, {}) for rank in range(count)]


def _able(asked: Mapping[str, float]) -> int:
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(all(has.get(name, 0) >= amount for name, amount in asked.items()) for has in alive)


def _amounts(asked: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in asked.items())


def _slices(resources: TpuPodConfig, name: str, tell: Tell) -> list[Host]:
    """Whole TPU slices: first the head of each, then all hosts of these slices.

    Only one host of a slice has its head resource, so steps cannot take parts of a slice from each other. Ray's own
    SlicePlacementGroup requests all hosts as soon as one exists. Its autoscaler, which counts a slice as one node,
    would then start more slices.
    """
    from ray.util.placement_group import placement_group

    per_slice = tpu_slice(resources).hosts
    names: list[str] = []
    while len(names) < resources.slice_count:
        patience = HOLD_SECONDS * random.uniform(0.5, 1.5) if names else None
        if found := _whole_slice(resources, name, tell, patience):
            names.append(found)
        else:  # another step may hold the rest, and wait for ours
            release(name)
            names.clear()
    selectors = [{SLICE: slice_name, WORKER: str(i)} for slice_name in names for i in range(per_slice)]
    bundles = [demand(resources)] * len(selectors)
    group = placement_group(bundles, strategy="STRICT_SPREAD", bundle_label_selector=selectors, name=_member(name))
    deadline = time.monotonic() + FREE_SECONDS
    while not group.wait(_LOOK):
        tell(f"waits until all hosts of {', '.join(names)} are free")
        if time.monotonic() > deadline:
            raise InfrastructureLoss(f"not all hosts of {', '.join(names)} were free within {FREE_SECONDS:g} s")
    return [Host(group, i, _megascale(resources.slice_count, i // per_slice)) for i in range(len(selectors))]


def _megascale(slices: int, index: int) -> dict[str, str]:
    """What libtpu needs to connect slices, without the coordinator's address, which only the first host knows."""
    if slices == 1:
        return {}
    return {"MEGASCALE_NUM_SLICES": str(slices), "MEGASCALE_SLICE_ID": str(index), "MEGASCALE_PORT": "8081"}


def _whole_slice(resources: TpuPodConfig, reservation: str, tell: Tell, patience: float | None) -> str | None:
    """Reserve the head of a slice whose hosts are all there. Returns the slice's name; None after `patience` seconds
    without a free one."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    tpu_type, hosts = resources.tpu_type, tpu_slice(resources).hosts
    incomplete: set[str] = set()  # these are tried again when there is no other
    deadline = math.inf if patience is None else time.monotonic() + patience
    while time.monotonic() < deadline:
        labels = {WORKER: "0", POD: tpu_type} | ({SLICE: f"!in({','.join(sorted(incomplete))})"} if incomplete else {})
        head = placement_group([{tpu_head(tpu_type): 1}], bundle_label_selector=[labels], name=_member(reservation))
        waited = 0.0
        while not (there := head.wait(_LOOK)):
            waited += _LOOK
            tell(f"waits for a free slice of type {tpu_type}" + _but(resources, incomplete))
            if incomplete and waited >= SLICE_SECONDS:
                incomplete.clear()
                break
            if time.monotonic() > deadline:
                break
        if there:
            name = _slice_of(ray, head)
            if _is_whole(ray, name, hosts, tell):
                return name
            incomplete.add(name)
        remove_placement_group(head)
    return None


def _but(resources: TpuPodConfig, incomplete: set[str]) -> str:
    """Why there is none, if that is known."""
    import ray

    hosts = tpu_slice(resources).hosts
    if incomplete:
        return f"; {', '.join(sorted(incomplete))} lacks some of its {hosts} hosts"
    alive = [about for about in ray.nodes() if about["Alive"]]
    if any(about["Labels"].get(POD) == resources.tpu_type for about in alive):
        return ""
    asked = demand(resources)
    most = {name: max([about["Resources"].get(name, 0) for about in alive], default=0) for name in asked}
    return (
        f"; this cluster has none: it needs {hosts} nodes, each with {_amounts(asked)}, and the most that a node has "
        f"of each is {_amounts(most)}. The step starts when such a slice joins; Ctrl-C ends the launch"
    )


def _slice_of(ray: ModuleType, head: PlacementGroup) -> str:
    from ray.util.placement_group import placement_group_table

    (node,) = placement_group_table(head)["bundles_to_node_id"].values()
    (labels,) = [about["Labels"] for about in ray.nodes() if about["NodeID"] == node]
    return str(labels[SLICE])


def _is_whole(ray: ModuleType, name: str, hosts: int, tell: Tell) -> bool:
    """Wait until all hosts of a slice are there: in a new slice, the others join after the first."""
    deadline = time.monotonic() + SLICE_SECONDS
    while (there := _alive_hosts(ray, name)) < hosts:
        if there == 0 or time.monotonic() > deadline:
            return False
        tell(f"waits for the hosts of slice {name}: {there} of {hosts} are there")
        time.sleep(_LOOK)
    return True


def _alive_hosts(ray: ModuleType, name: str) -> int:
    return sum(about["Alive"] and about["Labels"].get(SLICE) == name for about in ray.nodes())
