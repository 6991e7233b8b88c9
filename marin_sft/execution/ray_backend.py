"""Attempts as Ray tasks, each under its step's name. The rules for starting and joining Ray: `ray_environment`.

If RAY_ADDRESS is set, tasks go to that cluster. It must have the same environment; MARIN_SFT_WORKING_DIR names a
directory to ship. Otherwise a private Ray starts on loopback as soon as something has to run. It never attaches to
another Ray on the machine.
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
    """Starts or joins Ray at `start` or the first `submit`.

    notify: receives messages for the user.
    """

    capacity: int | None = None

    def __init__(self, notify: Callable[[str], None] = print) -> None:
        self._notify = notify
        self._lacking: set[str] = set()
        self._feasible: set[str] = set()
        self._ray: Any = None
        self._pending: set[Future[Outcome]] = set()
        self._broken = False  # our own Ray can no longer run tasks
        self._remote: dict[bool, RemoteFunction] = {}
        self._address = os.environ.get("RAY_ADDRESS") or None
        self.dashboard_url: str | None = None

    def start(self) -> None:
        if self._ray is not None:
            return
        ray_environment.prepare(self._address)
        import ray

        with handler_of_sigterm_kept():  # Ray installs one that exits silently
            context = self._join(ray) if self._address else ray_start.start_local(ray)
        self._ray = ray
        self.dashboard_url = context.dashboard_url and f"http://{context.dashboard_url}"
        # We retry ourselves, so that each retry is an attempt with a record.
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
            self._notify("Ray on this machine has died; restarting it")
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
        """On this machine, reduce a request to what exists."""
        have = self._ray.cluster_resources()
        lacking = asked.keys() - have.keys() - self._lacking
        if lacking:
            self._lacking |= lacking
            self._notify(f"{step}: this machine has no {', '.join(sorted(lacking))}; the step runs without it")
        cut = {name: min(amount, have[name]) for name, amount in asked.items() if name in have}
        return {"CPU": 0, **cut}

    def _tell_if_infeasible(self, step: str, asked: dict[str, float]) -> None:
        """Ray silently queues a request that no node can serve, since a node may join. So tell the user."""
        key = _amounts(asked)
        if key in self._feasible:
            return
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            self._feasible.add(key)
            return
        most = {name: max([node.get(name, 0) for node in nodes], default=0) for name in asked}
        self._notify(
            f"{step} waits: it requests {key} on one node; the most that a node has of each is {_amounts(most)}. "
            "It starts when such a node joins; Ctrl-C ends the launch"
        )

    def _hand_over(self, future: Future[Outcome], done: Future[Outcome], kills_before: int) -> None:
        if done.done():  # failed when its Ray was stopped
            return
        import ray.exceptions as exceptions

        error = future.exception()
        lost = (
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.RaySystemError,
            exceptions.TaskCancelledError,  # by a signal: results of tasks that we cancel are not read
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
            # The last line says what Ray itself could not do, e.g. import a module of the task.
            line = -1 if isinstance(error, exceptions.RaySystemError) else 0
            done.set_exception(InfrastructureLoss(str(error).splitlines()[line].strip()))
        elif isinstance(error, raylet_lost):
            self._broken = not self._address
            done.set_exception(InfrastructureLoss(str(error).splitlines()[0]))
        else:
            cause = getattr(error, "cause", None)  # of a RayTaskError; its own text is a traceback
            done.set_exception(cause if isinstance(cause, Exception) else error)

    def close(self) -> None:
        if self._ray is not None:
            self._ray.shutdown()
            self._ray, self._broken = None, False
        for done in list(self._pending):
            done.set_exception(InfrastructureLoss("the Ray it ran on was stopped"))


def _attempt(task: Task, secrets: dict[str, str]) -> Outcome:
    os.environ.update(secrets)
    return run_attempt(task, own_process=True)


def fresh_process_variables(asked: Collection[str]) -> dict[str, str]:
    """The environment of workers for `fresh_process` steps with these Ray resources.

    On some CPUs a training step takes a fifth to a quarter less time with huge pages, if the system grants them. It is
    faster still if freed memory is kept, since each step would otherwise get it back zeroed. Only the main arena keeps
    large blocks. glibc reads these variables when a process starts, so they cannot be set later.
    """
    malloc = {"hugetlb": 1}
    if {*asked} <= {"CPU", "memory"}:
        malloc |= {"arena_max": 1, "mmap_max": 0, "trim_threshold": 2**40}
    tunables = ":".join(f"glibc.malloc.{name}={value}" for name, value in malloc.items())
    return {
        # Workers of one runtime environment serve any task. This variable reserves these workers for such steps.
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
