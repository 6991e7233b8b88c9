"""What can run at once, and how long steps take then."""

from __future__ import annotations

import heapq
import os
from collections.abc import Mapping
from dataclasses import dataclass

from marin_sft.execution.graph import Node
from marin_sft.execution.resources import GpuConfig, gpus_here
from marin_sft.execution.step import kind_of

_START = 1.5  # seconds until a new process runs the body of its step, on the machines that it was measured on


@dataclass(frozen=True)
class Room:
    """What can run at once: `slots` steps, on `cpus` cores and `gpus` GPUs. None: as much as wanted.

    start: seconds until a step that has a process of its own begins.
    """

    slots: int | None = None
    cpus: float | None = None
    gpus: float | None = None
    start: float = 0.0

    @classmethod
    def of(cls, backend: str, private: bool, max_concurrent: int | None) -> Room:
        """private: on a Ray of this machine alone, where requests are reduced to what exists."""
        if backend == "inline":
            return cls(1)
        cpus, gpus = (os.cpu_count() or 1, gpus_here()) if private else (None, None)
        return cls(max_concurrent, cpus, gpus, _START)

    @property
    def text(self) -> str:
        if self.slots == 1:
            return "one step at a time"
        most = f", at most {self.slots} steps at once" if self.slots else ""
        if self.cpus is None:
            return f"if all that is ready can run{most or ' at once'}"
        return f"on the {self.cpus:g} {'core' if self.cpus == 1 else 'cores'} of this machine{most}"

    def share(self, node: Node) -> tuple[float, float]:
        """The cores and GPUs that a step takes of what there is."""
        asked = node.step.resources
        gpus = asked.gpu_count if isinstance(asked, GpuConfig) else 0
        return min(asked.cpus, self.cpus or 0.0), min(gpus, self.gpus or 0.0)


def wall_seconds(seconds: Mapping[Node, float], room: Room) -> float:
    """The end of the last step, if each begins as soon as its inputs are there and there is room for it.

    seconds: how long each takes, inputs first, which is the order in which they begin. 0 if that is unknown.
    """
    starts = {node for node in seconds if seconds[node] and kind_of(node.step.fn).fresh_process}
    seconds = {node: took + room.start * (node in starts) for node, took in seconds.items()}
    open_inputs = {node: {used for used in node.inputs if used in seconds} for node in seconds}
    users: dict[Node, list[Node]] = {node: [] for node in seconds}
    for node, used in open_inputs.items():
        for one in used:
            users[one].append(node)
    order = {node: number for number, node in enumerate(seconds)}
    ready = [node for node in seconds if not open_inputs[node]]
    running: list[tuple[float, int, Node]] = []
    clock, cpus, gpus = 0.0, 0.0, 0.0
    while ready or running:
        waiting = []
        for node in ready:
            more_cpus, more_gpus = room.share(node)
            full = room.slots is not None and len(running) >= room.slots
            full |= room.cpus is not None and cpus + more_cpus > room.cpus
            full |= room.gpus is not None and gpus + more_gpus > room.gpus
            if full and running:
                waiting.append(node)
                continue
            cpus, gpus = cpus + more_cpus, gpus + more_gpus
            heapq.heappush(running, (clock + seconds[node], order[node], node))
        clock, _, ended = heapq.heappop(running)
        fewer_cpus, fewer_gpus = room.share(ended)
        cpus, gpus, ready = cpus - fewer_cpus, gpus - fewer_gpus, waiting
        for user in users[ended]:
            open_inputs[user].discard(ended)
            if not open_inputs[user]:
                ready.append(user)
    return clock
