"""Attempts as Ray tasks, each under its step's name. The rules for starting and joining Ray: `ray_environment`.

With RAY_ADDRESS set, tasks go to that cluster, in the same environment there, or with the working directory named by
MARIN_SFT_WORKING_DIR shipped along. Without it a Ray of this process's own starts on loopback, and only when something
has to run; it never attaches to another Ray that it finds on the machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from concurrent.futures import Future
from types import ModuleType
from typing import TYPE_CHECKING, Any

from marin_sft.errors import InfrastructureLoss, OutOfMemory, UserError
from marin_sft.execution import out_of_memory, ray_environment, ray_start
from marin_sft.execution.resources import RuntimeEnv, demand
from marin_sft.execution.signals import handler_of_sigterm_kept
from marin_sft.execution.worker import Outcome, Task, run_attempt

if TYPE_CHECKING:
    from ray.remote_function import RemoteFunction


class RayBackend:
    """Starts or joins Ray on the first `submit`, or at `start`. `notify` is told in words what a user should know."""

    capacity: int | None = None

    def __init__(self, notify: Callable[[str], None] = print) -> None:
        self._notify = notify
        self._lacking: set[str] = set()
        self._feasible: set[str] = set()
        self._ray: Any = None
        self._pending: set[Future[Outcome]] = set()
        self._broken = False  # a Ray of our own that cannot run tasks any more
        self._remote: dict[bool, RemoteFunction] = {}
        self._address = os.environ.get("RAY_ADDRESS") or None
        self.dashboard_url: str | None = None

    def start(self) -> None:
        if self._ray is not None:
            return
        ray_environment.prepare(self._address)
        import ray

        with handler_of_sigterm_kept():  # Ray sets one that exits without a word
            context = self._join(ray) if self._address else ray_start.start_local(ray)
        self._ray = ray
        self.dashboard_url = context.dashboard_url and f"http://{context.dashboard_url}"
        # Retries are ours, so that each one is an attempt with a record.
        self._remote = {
            False: ray.remote(max_retries=0)(_attempt),
            True: ray.remote(max_retries=0, max_calls=1)(_attempt),
        }

    def _join(self, ray: ModuleType) -> Any:
        try:
            return ray.init(**ray_environment.cluster_options(str(self._address)))
        except ConnectionError as error:
            raise UserError(f"{error}; start that cluster, or unset RAY_ADDRESS to run on this machine") from error

    def submit(self, task: Task) -> Future[Outcome]:
        if self._broken:
            self._notify("Ray on this machine has died; it is started again")
            self.close()
        self.start()
        asked = demand(task.resources)
        if self._address:
            self._tell_if_infeasible(task.name, asked)
        else:
            asked = self._cut_down(task.name, asked)
        options = _ray_options(asked, task.resources.runtime_env, task.fresh_process)
        remote = self._remote[task.fresh_process].options(name=task.name, **options)
        reference = remote.remote(task, ray_environment.secrets_of_this_process())
        done: Future[Outcome] = Future()
        self._pending.add(done)
        done.add_done_callback(self._pending.discard)
        kills = out_of_memory.kernel_kills()
        reference.future().add_done_callback(lambda future: self._hand_over(future, done, kills))
        return done

    def _cut_down(self, step: str, asked: dict[str, float]) -> dict[str, float]:
        """A laptop has what it has: there, a request is cut down to what exists."""
        have = self._ray.cluster_resources()
        lacking = asked.keys() - have.keys() - self._lacking
        if lacking:
            self._lacking |= lacking
            self._notify(f"{step}: this machine has no {', '.join(sorted(lacking))}; the step runs without")
        cut = {name: min(amount, have[name]) for name, amount in asked.items() if name in have}
        return {"CPU": 0, **cut}

    def _tell_if_infeasible(self, step: str, asked: dict[str, float]) -> None:
        """Ray queues a request that no node can serve without a word: a node may join. So say it here."""
        key = _amounts(asked)
        if key in self._feasible:
            return
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            self._feasible.add(key)
            return
        most = {name: max([node.get(name, 0) for node in nodes], default=0) for name in asked}
        self._notify(
            f"{step} waits: it asks for {key} on one node; the most that nodes have of each is {_amounts(most)}. "
            "It starts when such a node joins; Ctrl-C ends the launch"
        )

    def _hand_over(self, future: Future[Outcome], done: Future[Outcome], kills_before: int) -> None:
        if done.done():  # given up with the Ray that it ran on
            return
        import ray.exceptions as exceptions

        error = future.exception()
        lost = (
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.RaySystemError,
            exceptions.TaskCancelledError,  # by a signal: nobody looks at the result of what we cancel
        )
        raylet_lost = (exceptions.LocalRayletDiedError,)
        killed_here = not self._address and out_of_memory.kernel_kills() > kills_before
        if error is None:
            done.set_result(future.result())
        elif isinstance(error, exceptions.OutOfMemoryError):
            done.set_exception(OutOfMemory(out_of_memory.killed_by_ray_text(str(error))))
        elif isinstance(error, exceptions.WorkerCrashedError) and killed_here:
            done.set_exception(OutOfMemory(out_of_memory.killed_by_kernel_text()))
        elif isinstance(error, lost):
            # Of what Ray itself could not do, such as import a module of the task, the last line says what.
            line = -1 if isinstance(error, exceptions.RaySystemError) else 0
            done.set_exception(InfrastructureLoss(str(error).splitlines()[line].strip()))
        elif isinstance(error, raylet_lost):
            self._broken = not self._address
            done.set_exception(InfrastructureLoss(str(error).splitlines()[0]))
        else:
            cause = getattr(error, "cause", None)  # of a RayTaskError, whose own text is a traceback
            done.set_exception(cause if isinstance(cause, Exception) else error)

    def close(self) -> None:
        if self._ray is not None:
            self._ray.shutdown()
            self._ray, self._broken = None, False
        for done in list(self._pending):
            done.set_exception(InfrastructureLoss("the Ray that it ran on was stopped"))


def _attempt(task: Task, secrets: dict[str, str]) -> Outcome:
    os.environ.update(secrets)
    return run_attempt(task, own_process=True)


def fresh_process_variables(asked: Collection[str]) -> dict[str, str]:
    """The environment of workers for steps of `fresh_process` that are given these of Ray's resources.

    On some CPUs a training step takes a fifth to a quarter less time with its memory in huge pages, where the system
    grants them, and less still with memory that is not given back, which each step would have cleared anew. Only the
    main arena keeps what is large. glibc reads this when a process starts: no other can have it.
    """
    malloc = {"hugetlb": 1}
    if {*asked} <= {"CPU", "memory"}:
        malloc |= {"arena_max": 1, "mmap_max": 0, "trim_threshold": 2**40}
    tunables = ":".join(f"glibc.malloc.{name}={value}" for name, value in malloc.items())
    return {
        # Ray lets workers of one runtime environment serve any task; those of this one serve such steps only, once.
        "MARIN_SFT_FRESH_PROCESS": "1",
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", tunables),
    }


def _ray_options(asked: dict[str, float], env: RuntimeEnv | None, fresh_process: bool) -> dict[str, object]:
    rest = dict(asked)
    options: dict[str, object] = {"num_cpus": rest.pop("CPU"), "num_gpus": rest.pop("GPU", None)}
    options["memory"] = rest.pop("memory", None)
    options["resources"] = rest or None
    variables = {**(fresh_process_variables(asked) if fresh_process else {}), **(env.env_vars if env else {})}
    runtime_env: dict[str, object] = {"env_vars": variables} if variables else {}
    if env and env.pip:
        runtime_env["pip"] = list(env.pip)
    if env and env.working_dir:
        runtime_env["working_dir"] = env.working_dir
    if runtime_env:
        options["runtime_env"] = runtime_env
    return {name: value for name, value in options.items() if value is not None}


def _amounts(amounts: dict[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in sorted(amounts.items()))
