"""Checks of a Ray cluster before it is used: one line each, with what to do if it is a problem."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from marin_sft.execution.ray_connection import Connection
from marin_sft.execution.ray_environment import SECRETS
from marin_sft.execution.shared_prefix import hosts_without, name_of
from marin_sft.execution.stores import open_store
from marin_sft.execution.tables import counted
from marin_sft.run import node_probe
from marin_sft.run.bucket import bucket_region, same_region
from marin_sft.run.cluster_driver import live_nodes

_ANSWER = 60.0  # seconds for a node to start a process, and to answer
_DEVICES = 180.0  # seconds for JAX to find all devices of a node
_PINGS = 5
_SKEW = 1.0  # seconds between clocks from which on logs mislead
_LEAST_DISK = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    """advice: what to do; empty if there is no problem."""

    check: str
    text: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        return not self.advice


@dataclass
class Cluster:
    """What checks look at. `nodes`, by name, are those that answer; `probes` are the actors on them."""

    ray: Any
    prefix: str | None
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    probes: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, *arguments: object) -> dict[str, Any]:
        """The answer of each node that gives one. `silent` says why another does not."""
        asked = {name: getattr(probe, method).remote(*arguments) for name, probe in self.probes.items()}
        ended, _ = self.ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER)
        answers = {}
        for name, reference in asked.items():
            try:
                answers[name] = self.ray.get(reference, timeout=0 if reference in ended else 0.001)
            except self.ray.exceptions.RayError as error:
                self.silent[name] = _reason(error)
        return answers


def examine(connection: Connection, prefix: str | None) -> Iterator[Finding]:
    """The findings of all checks, as they come."""
    cluster = Cluster(connection.ray, prefix)
    yield from _nodes(cluster)
    for check in CHECKS if cluster.facts else ():
        yield from check(cluster)


def _nodes(cluster: Cluster) -> Iterator[Finding]:
    from ray import cloudpickle
    from ray._private.state import state
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Pinned

    cloudpickle.register_pickle_by_value(node_probe)  # nodes may lack marin_sft, or have another one
    actor = cluster.ray.remote(num_cpus=0, max_restarts=0)(node_probe.NodeProbe)
    nodes = live_nodes(cluster.ray)
    names = dict(zip(_distinct([name_of(node) for node in nodes]), nodes, strict=True))
    ends = state.get_draining_nodes()
    leaving = [name for name, node in names.items() if node["NodeID"] in ends]  # they take no tasks any more
    cluster.nodes = {name: node for name, node in names.items() if name not in leaving}
    cluster.probes = {
        name: actor.options(scheduling_strategy=Pinned(node["NodeID"], soft=False)).remote()
        for name, node in cluster.nodes.items()
    }
    cluster.facts = cluster.ask("facts")
    for name, reason in cluster.silent.items():
        del cluster.nodes[name], cluster.probes[name]
        yield Finding("ray", f"{name} has not answered ({reason})", f"see Ray's logs there, in {_logs(cluster.ray)}")
    if cluster.facts:
        rest = f"; {', '.join(leaving)} will be taken away and is not asked" if leaving else ""
        yield Finding("ray", f"Ray {cluster.ray.__version__}, {counted(len(cluster.facts), 'node')} answering{rest}")


def _versions(cluster: Cluster) -> Iterator[Finding]:
    own = node_probe.NodeProbe().facts()
    different = False
    for name, facts in cluster.facts.items():
        theirs = {**facts["versions"], "marin_sft's code": facts["code"]}
        ours = {**own["versions"], "marin_sft's code": own["code"]}
        if wrong := [f"{what} {theirs[what]} (here {ours[what]})" for what in ours if theirs[what] != ours[what]]:
            different = True
            advice = "install the same lock file and commit on all nodes, or ship the code: MARIN_SFT_WORKING_DIR=."
            yield Finding("versions", f"{name} has {', '.join(wrong)}", advice)
    if not different and cluster.facts:
        yield Finding("versions", ", ".join(f"{what} {version}" for what, version in own["versions"].items()))


def _credentials(cluster: Cluster) -> Iterator[Finding]:
    passed = os.environ.get(SECRETS, "").split(",")
    for variable in node_probe.CREDENTIALS:
        without = [name for name, facts in cluster.facts.items() if variable not in facts["credentials"]]
        way = f"ray_run --env_vars {variable} passes it to steps"
        if variable in passed:
            yield Finding("credentials", f"{variable} is passed to steps")
        elif not without:
            yield Finding("credentials", f"{variable} is set on {_all(cluster)}")
        elif len(without) == len(cluster.facts):
            yield Finding("credentials", f"{variable} is set on no node; {way}")
        else:
            yield Finding("credentials", f"{variable} is set on other nodes, but not on {', '.join(without)}", way)


def _prefix(cluster: Cluster) -> Iterator[Finding]:
    if cluster.prefix is None:
        yield Finding("prefix", "not checked; name it with --prefix or MARIN_SFT_PREFIX")
        return
    if here := node_probe.NodeProbe().prefix(cluster.prefix):
        yield Finding(
            "prefix", here, "create it, or choose another with --prefix; check the credentials of this machine"
        )
        return
    store = open_store(cluster.prefix)
    if store.on_disk:
        yield from _shared(cluster)
        return
    answers = cluster.ask("prefix", cluster.prefix)
    problems = {name: answer for name in cluster.probes if (answer := answers.get(name, "no answer"))}
    for name, problem in problems.items():
        yield Finding("prefix", f"on {name}: {problem}", "give the node credentials that may read and write there")
    if not problems:
        text = f"{cluster.prefix} can be written from {_all(cluster)}, and excludes a second writer"
        yield Finding("prefix", text)
        yield from _region(cluster)


def _shared(cluster: Cluster) -> Iterator[Finding]:
    store = open_store(cluster.prefix or "")
    problems = hosts_without(cluster.ray, store, list(cluster.nodes.values()))
    for name, problem in problems:
        advice = "use a directory that all nodes share (NFS), or a URL such as gs://bucket/path"
        yield Finding("prefix", f"{store.prefix}: {name} {problem or 'gave no answer'}", advice)
    if not problems:
        shared = f"is shared by {_all(cluster)}" if len(cluster.nodes) > 1 else "can be written"
        yield Finding("prefix", f"{store.prefix} {shared}, and excludes a second writer")


def _region(cluster: Cluster) -> Iterator[Finding]:
    bucket = bucket_region(cluster.prefix or "")
    if bucket is None:
        return
    regions = cluster.ask("region")
    labels = {name: node.get("Labels", {}).get("ray.io/availability-region") for name, node in cluster.nodes.items()}
    known = {name: region for name in cluster.nodes if (region := labels[name] or regions.get(name))}
    far = {name: region for name, region in known.items() if not same_region(bucket, region)}
    for name, region in far.items():
        advice = "use a bucket in the region of the nodes: from another one, reads are slow, and each is paid for"
        yield Finding("region", f"the bucket is in {bucket}, but {name} in {region}", advice)
    if known and not far:
        yield Finding("region", f"the bucket is in {bucket}, as {counted(len(known), 'node')}")


def _clocks(cluster: Cluster) -> Iterator[Finding]:
    """Midpoint of the fastest of several calls, as NTP does."""
    offsets, errors = {}, {}
    for name, probe in cluster.probes.items():
        samples = []
        for _ in range(_PINGS):
            before = time.time()
            there = _got(cluster.ray, probe.clock.remote(), _ANSWER)
            after = time.time()
            if there is not None:
                samples.append(((after - before) / 2, there - (before + after) / 2))
        if samples:
            errors[name], offsets[name] = min(samples)
    if len(offsets) < 2:
        return
    middle = statistics.median(offsets.values())
    wrong = {name: offset - middle for name, offset in offsets.items() if abs(offset - middle) - errors[name] > _SKEW}
    for name, offset in wrong.items():
        text = f"the clock of {name} is {abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} the others"
        yield Finding("clocks", text, "set it, e.g. with chrony: times in logs and tokens of clouds depend on it")
    if not wrong:
        most = max(abs(offset - middle) for offset in offsets.values())
        yield Finding("clocks", f"at most {most * 1000:.0f} ms apart (error {max(errors.values()) * 1000:.0f} ms)")


def _disks(cluster: Cluster) -> Iterator[Finding]:
    least = dict[str, int]()
    problems = False
    for name, facts in cluster.facts.items():
        for place, (total, free) in facts["disks"].items():
            least[place] = min(free, least.get(place, free))
            needed = cluster.nodes[name]["Resources"].get("object_store_memory", 0)
            if place == "/dev/shm" and total < needed:
                problems = True
                advice = "give the container more, e.g. docker run --shm-size=32g"
                text = f"{name}: {place} has {_gib(total)}, less than the {_gib(needed)} of Ray's objects"
                yield Finding("disk", text, advice)
            elif place != "/dev/shm" and free < max(_LEAST_DISK, 0.05 * total):
                problems = True
                advice = "free some: Ray stops storing objects on a disk that is 95% full"
                yield Finding("disk", f"{name}: {place} has {_gib(free)} free of {_gib(total)}", advice)
    if not problems:
        yield Finding("disk", ", ".join(f"at least {_gib(free)} free in {place}" for place, free in least.items()))


def _devices(cluster: Cluster) -> Iterator[Finding]:
    from ray._private.state import state

    asked, free = [], state.available_resources_per_node()
    for name, node in cluster.nodes.items():
        for kind in ("GPU", "TPU"):
            claimed = node["Resources"].get(kind, 0)
            if claimed and free.get(node["NodeID"], {}).get(kind, 0) < claimed:
                yield Finding("devices", f"{name}: its {kind}s are in use, so JAX was not asked")
            elif claimed:
                asked.append((name, kind, claimed, _count(cluster.ray, node, kind, claimed)))
    for name, kind, claimed, reference in asked:
        seen = _got(cluster.ray, reference, _DEVICES + _ANSWER) or "no answer"
        if seen == f"{claimed:g}":
            yield Finding("devices", f"{name}: JAX sees its {claimed:g} {kind}s")
        else:
            text = f"{name}: Ray has {kind} {claimed:g}, but JAX there sees {seen}"
            extra = {"GPU": "gpu", "TPU": "tpu"}[kind]
            yield Finding("devices", text, f"install marin_sft[{extra}] there, and check the driver")


def _count(ray: Any, node: Mapping[str, Any], kind: str, claimed: float) -> object:
    """Reserves the devices meanwhile, since a step could not use them either."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Pinned

    what: dict[str, Any] = {"num_gpus": claimed} if kind == "GPU" else {"resources": {kind: claimed}}
    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=Pinned(node["NodeID"], soft=False), **what)
    return task(node_probe.count_devices).remote(kind, _DEVICES)


CHECKS: tuple[Callable[[Cluster], Iterable[Finding]], ...] = (
    _versions,
    _credentials,
    _prefix,
    _clocks,
    _disks,
    _devices,
)


def print_finding(console: Console, finding: Finding) -> None:
    state = Text("ok", style="green") if finding.ok else Text("problem", style="bold red")
    text = f"{finding.text}: {finding.advice}" if finding.advice else finding.text
    if console.soft_wrap:
        console.print(Text.assemble(state, " " * (9 - len(state)), finding.check.ljust(13), text))
        return
    row = Table.grid(padding=(0, 2, 0, 0))
    for width in (7, 11, None):
        row.add_column(width=width, overflow="fold")
    row.add_row(state, finding.check, text)
    console.print(row)


def _got(ray: Any, reference: object, timeout: float = 0) -> Any:
    try:
        return ray.get(reference, timeout=timeout)
    except ray.exceptions.RayError:
        return None


def _reason(error: Exception) -> str:
    """The last line of a RayTaskError's traceback is the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _distinct(names: list[str]) -> list[str]:
    """Several nodes of one machine, as in tests, have one name."""
    return [f"{name} #{names[:i].count(name) + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _all(cluster: Cluster) -> str:
    return f"all {len(cluster.facts)} nodes" if len(cluster.facts) > 1 else "the node"


def _gib(number: float) -> str:
    return f"{number / 2**30:,.1f} GiB"


def _logs(ray: Any) -> str:
    return str(ray._private.worker._global_node.get_logs_dir_path())
