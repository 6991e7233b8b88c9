"""A step on several hosts: one process on each, joined by jax.distributed, all of them or none.

The attempt's own process coordinates. It holds the claim and beats, reserves the hosts, starts a rank on each, and
stops all of them as soon as one fails. What rank 0 prints goes to the attempt's log. Each rank also has a log of its
own, such as `.log-3`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from marin_sft import preemption, progress
from marin_sft.errors import InfrastructureLoss, OutOfMemory, Preempted
from marin_sft.execution import out_of_memory
from marin_sft.execution.rank import Ended, Place, Rank, RankEnded, Work, line_of, stacks_of
from marin_sft.execution.reservation import Host, reserved
from marin_sft.execution.resources import Resources, demand, hosts_of
from marin_sft.execution.step_state import Failure

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

_LOOK = 1.0  # seconds between two looks at ranks and nodes
SETTLE = 5.0  # seconds for the others to say why they failed, once one did
START = 600.0  # seconds for Ray to start all ranks, environments included
SILENCE = 45.0  # seconds without an answer after which a rank is lost; without progress, stacks are logged


def group_name(directory: str, claim: int) -> str:
    """The name of what an attempt reserves, so that a launch can release it if the attempt's process was killed."""
    return f"marin_sft {directory} {claim}"


@dataclass(frozen=True)
class Gang:
    """The ranks of an attempt. variables: for the environment of their processes as they start."""

    work: Work
    name: str
    resources: Resources
    variables: Mapping[str, str]

    def run(self, *listeners: progress.Listener) -> Failure | None:
        """Run the step's body on all hosts. Returns the first failure of the user's code.

        listeners: get the progress of rank 0.

        Raises:
            InfrastructureLoss: a host, or a process, was lost.
            Preempted: hosts are taken away, and the ranks have kept what was done.
            OutOfMemory: a rank was killed for its memory use.
        """
        import ray

        told: set[str] = set()

        def hear(news: progress.Progress) -> None:
            for listener in listeners:
                listener(news)

        def tell(waits: str) -> None:
            if waits not in told:
                told.add(waits)
                print(waits, flush=True)
            hear(progress.Progress(0, hosts_of(self.resources), "hosts"))

        with reserved(self.resources, group_name(self.work.directory, self.work.claim), tell) as hosts:
            ranks = [self._start(number, host) for number, host in enumerate(hosts)]
            try:
                places = self._places(ranks)
                work = dataclasses.replace(self.work, coordinator=places[0].address, ranks=len(ranks))
                where = ", ".join(place.host for place in places)
                print(f"{len(ranks)} ranks on {where}; coordinator {work.coordinator}", flush=True)
                runs = [
                    rank.run.remote(work, _coordinated(host, places[0]))
                    for rank, host in zip(ranks, hosts, strict=True)
                ]
                with preemption.told_by_sigterm():
                    return _Watch(ranks, places, runs, hear).result()
            finally:
                for rank in ranks:
                    ray.kill(rank)

    def _start(self, number: int, host: Host) -> ActorHandle[Rank]:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        asked = demand(self.resources)
        options: dict[str, object] = {
            "num_cpus": asked.pop("CPU", 0),
            "num_gpus": asked.pop("GPU", 0),
            "memory": asked.pop("memory", None),
            "resources": asked or None,
        }
        # Ray names the actor, its tasks and its process after the class.
        named = type(f"{self.name}[{number}]", (Rank,), {})
        actor = ray.remote(concurrency_groups={"control": 2})(named)
        return actor.options(
            **{name: value for name, value in options.items() if value is not None},
            scheduling_strategy=PlacementGroupSchedulingStrategy(host.group, host.bundle),
            runtime_env={"env_vars": dict(self.variables)},  # Ray adds the environment of this process's task
            max_restarts=0,
            max_task_retries=0,
        ).remote(number)

    def _places(self, ranks: list[ActorHandle[Rank]]) -> list[Place]:
        import ray

        try:
            return ray.get([rank.place.remote() for rank in ranks], timeout=START)
        except ray.exceptions.RayError as error:  # a host was lost, or a process's environment could not be made
            raise InfrastructureLoss(f"not all ranks started: {line_of(error)}") from error


def _coordinated(host: Host, first: Place) -> dict[str, str]:
    """The variables of a rank. Slices connect to the first host, at a port of their own."""
    if "MEGASCALE_PORT" not in host.variables:
        return dict(host.variables)
    address = first.address.rpartition(":")[0]
    return {**host.variables, "MEGASCALE_COORDINATOR_ADDRESS": f"{address}:{host.variables['MEGASCALE_PORT']}"}


@dataclass
class _Watch:
    """Waits for ranks, and judges how they ended."""

    ranks: list[ActorHandle[Rank]]
    places: list[Place]
    runs: list[ObjectRef[Ended]]
    hear: progress.Listener
    ended: dict[int, Ended | Exception] = field(default_factory=dict)  # in the order of time
    asked: dict[int, tuple[ObjectRef[Any], float]] = field(default_factory=dict)
    newest: progress.Progress | None = None
    moved: float = field(default_factory=time.monotonic)  # when the newest progress came
    told_of_stall: bool = False
    warned: bool = False

    def result(self) -> Failure | None:
        import ray

        deadline: float | None = None
        while len(self.ended) < len(self.runs) and (deadline is None or time.monotonic() < deadline):
            open_runs = {run: i for i, run in enumerate(self.runs) if i not in self.ended}
            for run in ray.wait(list(open_runs), num_returns=1, timeout=_LOOK)[0]:
                self._take(open_runs[run], run)
            if deadline is None and any(end != Ended() for end in self.ended.values()):
                deadline = time.monotonic() + SETTLE
            self._require_nodes()
            if preemption.expected() and not self.warned:
                self.warned = True
                for rank in self.ranks:
                    rank.warn.options(concurrency_group="control").remote()
            self._listen()
        self._hear_the_rest()
        return self._verdict()

    def _take(self, number: int, run: ObjectRef[Ended]) -> None:
        import ray

        try:
            end: Ended | Exception = ray.get(run)
        except Exception as error:  # of Ray, or of the store
            cause = getattr(error, "cause", None)
            end = cause.ended if isinstance(cause, RankEnded) else error
        self.ended[number] = end
        if isinstance(end, Exception):
            print(f"{self._who(number)} was lost: {line_of(end)}", flush=True)
        elif end.failure is not None:
            print(f"{self._who(number)} failed: {end.failure.error.splitlines()[0]}", flush=True)

    def _who(self, number: int) -> str:
        return f"rank {number} on {self.places[number].host}"

    def _require_nodes(self) -> None:
        """Raises InfrastructureLoss if a host of a rank is gone."""
        import ray

        dead = {about["NodeID"]: about.get("DeathReasonMessage") for about in ray.nodes() if not about["Alive"]}
        lost = [number for number, place in enumerate(self.places) if place.node in dead]
        if lost:
            raise InfrastructureLoss(
                "; ".join(f"the host of {self._who(n)} was lost: {dead[self.places[n].node] or 'gone'}" for n in lost)
            )

    def _listen(self) -> None:
        """Pass on rank 0's progress and prints. Every rank must answer, or it is lost."""
        import ray

        for number, rank in enumerate(self.ranks):
            if number in self.ended and number:
                continue
            if number not in self.asked:
                method = rank.answer if number else rank.news
                self.asked[number] = (method.options(concurrency_group="control").remote(), time.monotonic())
            answer, since = self.asked[number]
            if ray.wait([answer], timeout=0)[0]:
                del self.asked[number]
                with contextlib.suppress(ray.exceptions.RayError):  # its run tells how it died
                    self._hear(ray.get(answer))
            elif time.monotonic() - since > SILENCE and number not in self.ended:
                self._print_stacks(silent=number)
                raise InfrastructureLoss(
                    f"{self._who(number)} has not answered for {SILENCE:g} s; its log has the stacks"
                )
        if self.newest and not self.told_of_stall and time.monotonic() - self.moved > SILENCE:
            self.told_of_stall = True
            print(f"no progress for {SILENCE:g} s; this may be a long evaluation or a hung rank:", flush=True)
            self._print_stacks(silent=None)

    def _hear_the_rest(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            pending, _ = self.asked.pop(0, (None, 0.0))
            if pending is not None:
                self._hear(ray.get(pending, timeout=SETTLE))
            self._hear(ray.get(self.ranks[0].news.options(concurrency_group="control").remote(), timeout=SETTLE))

    def _hear(self, answer: tuple[progress.Progress | None, str] | None) -> None:
        if answer is None:
            return
        news, printed = answer
        if printed:
            print(printed, end="", flush=True)
        if news is not None and news != self.newest:
            self.newest, self.moved, self.told_of_stall = news, time.monotonic(), False
            self.hear(news)

    def _print_stacks(self, silent: int | None) -> None:
        import ray

        for number, rank in enumerate(self.ranks):
            with contextlib.suppress(ray.exceptions.RayError):
                if number == silent:
                    found = ray.get(_on(self.places[number], stacks_of, self.places[number]), timeout=40)
                else:
                    found = ray.get(rank.stacks.options(concurrency_group="control").remote(), timeout=5)
                print(f"--- {self._who(number)}\n{found}", flush=True)

    def _verdict(self) -> Failure | None:
        """The first end that is not about others decides. Memory kills and preemptions come before all others."""
        import ray

        ends = list(self.ended.items())
        for number, end in ends:
            if isinstance(end, ray.exceptions.OutOfMemoryError):
                raise OutOfMemory(f"{self._who(number)}: {out_of_memory.killed_by_ray_text(str(end))}")
            if isinstance(end, ray.exceptions.RayActorError) and self._killed_by_kernel(number):
                raise OutOfMemory(f"{self._who(number)}: {out_of_memory.killed_by_kernel_text()}")
        for _, end in ends:
            if isinstance(end, Ended) and end.preempted is not None:
                raise Preempted(end.preempted)
        for number, end in ends:
            if isinstance(end, Exception) and not isinstance(end, ray.exceptions.RayActorError):
                cause = getattr(end, "cause", None)  # of a RayTaskError: e.g. the store's own error
                raise cause if isinstance(cause, Exception) else end
            if isinstance(end, Exception):
                raise InfrastructureLoss(f"the process of {self._who(number)} died") from end
            if end.lost is not None:
                raise InfrastructureLoss(f"{self._who(number)}: {end.lost}")
            if end.failure is not None and not end.about_others:
                if number:  # rank 0 has printed its own
                    print(end.failure.traceback, end="", flush=True)
                return dataclasses.replace(end.failure, error=f"{self._who(number)}: {end.failure.error}")
        for number, end in ends:
            if isinstance(end, Ended) and end.failure is not None:
                raise InfrastructureLoss(f"{self._who(number)} lost another one: {end.failure.error.splitlines()[0]}")
        return None

    def _killed_by_kernel(self, number: int) -> bool:
        import ray

        place = self.places[number]
        with contextlib.suppress(ray.exceptions.RayError):
            return ray.get(_on(place, out_of_memory.kernel_kills), timeout=10) > place.kills
        return False


def _on(place: Place, function: Any, *arguments: Any) -> ObjectRef[Any]:
    """Call a function on the host of a rank."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(place.node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(function).options(scheduling_strategy=there).remote(*arguments)
