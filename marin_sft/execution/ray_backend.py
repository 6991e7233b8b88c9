"""Attempts as Ray tasks, each under its step's name. Which Ray: `ray_connection`; by which rules: `ray_environment`.

A Ray that this process is already connected to is used. Otherwise, if RAY_ADDRESS is set, tasks go to that cluster. It
must have the same environment; MARIN_SFT_WORKING_DIR names a directory to ship. Otherwise a private Ray starts on
loopback as soon as something has to run. It never attaches to another Ray on the machine.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import shlex
import signal
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from types import ModuleType
from typing import TYPE_CHECKING, Any

from marin_sft.errors import InfrastructureLoss, MarinSftError, OutOfMemory, UserError
from marin_sft.execution import drains, out_of_memory, ray_environment
from marin_sft.execution.claims import read_claim
from marin_sft.execution.gang import group_name
from marin_sft.execution.ray_connection import Connection, connect, in_worker
from marin_sft.execution.ray_failure import shown_by_ray
from marin_sft.execution.ray_metrics import AttemptGauges
from marin_sft.execution.reservation import release
from marin_sft.execution.resources import RuntimeEnv, demand, one_host_of
from marin_sft.execution.shared_prefix import check_shared
from marin_sft.execution.step import StepKind, kind_of
from marin_sft.execution.store import Store
from marin_sft.execution.stores import open_store
from marin_sft.execution.terminal import without_colours
from marin_sft.execution.worker import Outcome, Task, run_attempt

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.remote_function import RemoteFunction
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_SHARED = ("CPU", "memory")  # of these, less does
DIED = "its process died without a word, as by SIGKILL or a crash of native code (SIGSEGV, SIGABRT)"
_PATIENCE = 10.0  # seconds for stopped tasks to end


class StepFailed(MarinSftError):
    """Raised by the task of a failed attempt, so that Ray shows it as failed. The launch only sees its `outcome`."""

    def __init__(self, step: str, outcome: Outcome) -> None:
        super().__init__(step, outcome)
        self.step, self.outcome = step, outcome

    def __str__(self) -> str:
        return shown_by_ray(self.step, self.outcome.failure)


class RayBackend:
    """Connects to Ray at `start` or the first `submit`.

    notify: receives messages for the user.
    """

    capacity: int | None = None

    def __init__(self, notify: Callable[[str], None] = print) -> None:
        self._notify = notify
        self._lacking: set[str] = set()
        self._feasible: set[str] = set()
        self._connection: Connection | None = None
        self._pending: dict[Future[Outcome], ObjectRef] = {}  # with Ray's reference to each result
        self._tasks: dict[Future[Outcome], Task] = {}
        self._broken = False  # our own Ray can no longer run tasks
        self._remote: dict[bool, RemoteFunction] = {}
        self._about: dict[str, str] = {}  # for the page of this launch in the dashboard
        self.dashboard_url: str | None = None

    def start(self, store: Store | None = None) -> None:
        """Raises StoreError if a node does not share the prefix of the store."""
        if store is not None:
            self._about = {ray_environment.LOGS_OF_STEPS: f"marin-sft logs STEP --prefix {shlex.quote(store.prefix)}"}
        try:
            ray = self._connected().ray
            for host in check_shared(ray, store) if store else ():
                self._notify(f"{host} gave no answer, so whether it shares the prefix is not known")
        except BaseException:
            self.close()
            raise

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = connect(self._about)
            self.dashboard_url = self._connection.dashboard_url
            remote = self._connection.ray.remote
            # We retry ourselves, so that each retry is an attempt with a record.
            self._remote = {
                False: remote(max_retries=0)(_attempt),
                True: remote(max_retries=0, max_calls=1)(_attempt),
            }
        return self._connection

    def submit(self, task: Task) -> Future[Outcome]:
        if self._broken:
            self._notify("Ray on this machine has died; restarting it")
            self.close()
        connection = self._connected()
        asked, kind = demand(task.resources), kind_of(task.fn)
        if connection.ends_with_driver:
            task = self._on_one_host(task)
            asked = self._cut_down(connection, task.name, asked)
        elif task.hosts > 1:
            asked = {"CPU": 0}  # the ranks hold what the step requests, and say what they wait for
        else:
            self._tell_if_infeasible(connection, task.name, asked)
        inherited = connection.ray.get_runtime_context().runtime_env  # of the job, too
        options = _ray_options(asked, task.resources.runtime_env, kind, inherited)
        if task.hosts > 1:
            # On the driver's host, if it takes tasks: if that is lost, so is the launch.
            options["scheduling_strategy"] = _on_node(connection.ray.get_runtime_context().get_node_id(), soft=True)
        remote = self._remote[kind.fresh_process].options(name=task.name, **options)
        # The user's Ray may print its workers' output, and the launch already shows the logs of attempts.
        reference = remote.remote(
            task, ray_environment.secrets_of_this_process(), not connection.found, connection.ends_with_driver
        )
        done: Future[Outcome] = Future()
        self._pending[done], self._tasks[done] = reference, task
        done.add_done_callback(self._forget)
        kills = out_of_memory.kernel_kills()
        reference.future().add_done_callback(lambda future: self._hand_over(future, task, done, kills))
        return done

    def _forget(self, done: Future[Outcome]) -> None:
        del self._pending[done], self._tasks[done]

    def wait(self, running: Collection[Future[Outcome]], timeout: float | None) -> set[Future[Outcome]]:
        """In a Ray task, wait through Ray, which then lends the task's CPUs to the awaited tasks."""
        connection, pending = self._connected(), dict(self._pending)
        if in_worker() and pending.keys() >= set(running):
            ended, _ = connection.ray.wait([pending[done] for done in running], timeout=timeout, fetch_local=False)
            timeout = None if ended else 0
        first = concurrent.futures.FIRST_COMPLETED
        return concurrent.futures.wait(running, timeout=timeout, return_when=first).done

    def _cut_down(self, connection: Connection, step: str, asked: dict[str, float]) -> dict[str, float]:
        """On this machine, reduce a request to what exists.

        Raises:
            UserError: the Ray task that waits for the step holds the resources that the step needs.
        """
        have, held = connection.ray.cluster_resources(), connection.held()
        lacking = asked.keys() - have.keys() - self._lacking
        if lacking:
            self._lacking |= lacking
            self._notify(f"{step}: this machine has no {', '.join(sorted(lacking))}; the step runs without it")
        cut = {name: min(amount, have[name]) for name, amount in asked.items() if name in have}
        for name in cut:
            free = max(0.0, have[name] - held.get(name, 0))
            if name not in _SHARED and cut[name] < asked[name] and name not in self._lacking:
                self._lacking.add(name)
                self._notify(
                    f"{step}: requests {name} {asked[name]:g}, but this machine has {have[name]:g} and gives that"
                )
            if name in _SHARED:
                cut[name] = min(cut[name], free)
            elif cut[name] > free:
                raise UserError(
                    f"step '{step}' requests {name} {cut[name]:g}, but the Ray task or actor that waits for it holds "
                    f"{held[name]:g} of the {have[name]:g} that exist. Only the step needs them: remove them from the "
                    "@ray.remote around it"
                )
        return {"CPU": 0, **cut}

    def _tell_if_infeasible(self, connection: Connection, step: str, asked: dict[str, float]) -> None:
        """Ray silently queues a request that no node can serve, since a node may join. So tell the user."""
        key = _amounts(asked)
        if key in self._feasible:
            return
        here, held = connection.ray.get_runtime_context().get_node_id(), connection.held()
        nodes = [
            {name: amount - (held.get(name, 0) if node["NodeID"] == here else 0) for name, amount in has.items()}
            for node in connection.ray.nodes()
            if node["Alive"] and (has := node["Resources"])
        ]
        if any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            self._feasible.add(key)
            return
        most = {name: max([node.get(name, 0) for node in nodes], default=0) for name in asked}
        self._notify(
            f"{step} waits: it requests {key} on one node; the most that a node has of each is {_amounts(most)}. "
            "It starts when such a node joins; Ctrl-C ends the launch"
        )

    def _on_one_host(self, task: Task) -> Task:
        if task.hosts == 1:
            return task
        if task.name not in self._lacking:
            self._lacking.add(task.name)
            self._notify(f"{task.name}: {one_host_of(task.hosts)}")
        return dataclasses.replace(task, hosts=1)

    def _hand_over(self, future: Future[Outcome], task: Task, done: Future[Outcome], kills_before: int) -> None:
        if done.done():  # failed when its Ray was stopped
            return
        import ray.exceptions as exceptions

        error = future.exception()
        if error is not None and task.hosts > 1:  # its process may have been killed
            # In a thread of its own: this is Ray's, which must not wait for Ray.
            threading.Thread(target=release, args=(group_name(task.directory, task.claim),), daemon=True).start()
        lost = (
            exceptions.NodeDiedError,
            exceptions.RaySystemError,
            exceptions.TaskCancelledError,  # by a signal: results of tasks that we cancel are not read
        )
        raylet_lost = (exceptions.LocalRayletDiedError,)
        killed_here = self._on_this_machine and out_of_memory.kernel_kills() > kills_before
        if error is None:
            done.set_result(future.result())
        elif isinstance(error, exceptions.OutOfMemoryError):
            done.set_exception(OutOfMemory(out_of_memory.killed_by_ray_text(str(error))))
        elif isinstance(error, exceptions.WorkerCrashedError) and killed_here:
            done.set_exception(OutOfMemory(out_of_memory.killed_by_kernel_text()))
        elif isinstance(error, exceptions.WorkerCrashedError):  # Ray's text only names a log of Ray
            done.set_exception(InfrastructureLoss(DIED))
        elif isinstance(error, lost):
            # The last line says what Ray itself could not do, e.g. import a module of the task.
            line = -1 if isinstance(error, exceptions.RaySystemError) else 0
            said = without_colours(str(error)) or type(error).__name__
            done.set_exception(InfrastructureLoss(said.splitlines()[line].strip()))
        elif isinstance(error, raylet_lost):
            self._broken = self._on_this_machine and not self._connected().found
            done.set_exception(InfrastructureLoss(without_colours(str(error)).splitlines()[0]))
        else:
            cause = getattr(error, "cause", None)  # of a RayTaskError; its own text is a traceback
            if isinstance(cause, StepFailed):
                done.set_result(cause.outcome)
            else:
                done.set_exception(cause if isinstance(cause, Exception) else error)

    @property
    def _on_this_machine(self) -> bool:
        return self._connection is not None and self._connection.ends_with_driver

    def let_keep(self) -> None:
        """Send SIGTERM to the processes of all attempts. (What Ray sends upon `ray.cancel` does not end a sleep.)"""
        ray, pending = self._connected().ray, dict(self._pending)
        hosts = {node["NodeManagerHostname"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for done, reference in pending.items():
            task = self._tasks[done]
            claim = read_claim(open_store(task.prefix), task.directory, task.claim)
            if claim is None or claim.owner.host not in hosts:  # it waits, or nobody knows where it is
                ray.cancel(reference, force=True)
            elif claim.owner.in_sight:
                _terminate(claim.owner.pid)
            else:
                there = _on_node(hosts[claim.owner.host], soft=False)
                ray.remote(num_cpus=0)(_terminate).options(scheduling_strategy=there).remote(claim.owner.pid)
        concurrent.futures.wait(pending)

    def close(self) -> None:
        if self._connection is not None:
            if self._connection.found:
                self._stop_tasks(self._connection.ray)
            self._connection.close()
            self._connection, self._broken = None, False
        for done in list(self._pending):
            done.set_exception(InfrastructureLoss("the Ray it ran on was stopped"))

    def _stop_tasks(self, ray: ModuleType) -> None:
        """Stop the tasks on a Ray that stays up, and wait until their processes have ended."""
        pending = dict(self._pending)
        for reference in pending.values():
            ray.cancel(reference, force=True)
        if pending:
            ray.wait(list(pending.values()), num_returns=len(pending), timeout=_PATIENCE, fetch_local=False)
            concurrent.futures.wait(pending, timeout=_PATIENCE)


def _on_node(node: str, soft: bool) -> NodeAffinitySchedulingStrategy:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=soft)


def _terminate(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _attempt(task: Task, secrets: dict[str, str], echo: bool, alone: bool) -> Outcome:
    """alone: no other machine belongs to this Ray, so none is drained."""
    os.environ.update(secrets)
    with contextlib.nullcontext() if alone else drains.heeded(), AttemptGauges(task.name, task.claim) as gauges:
        outcome = run_attempt(task, own_process=True, echo=echo, listeners=[gauges.hear])
    if outcome.failure is not None:
        raise StepFailed(task.name, outcome)
    return outcome


def _ray_options(
    asked: dict[str, float], env: RuntimeEnv | None, kind: StepKind, inherited: Mapping[str, Any]
) -> dict[str, object]:
    """inherited: the runtime_env that the task also gets; Ray merges the variables of both."""
    rest = dict(asked)
    options: dict[str, object] = {"num_cpus": rest.pop("CPU"), "num_gpus": rest.pop("GPU", None)}
    options["memory"] = rest.pop("memory", None)
    options["resources"] = rest or None
    variables = {**ray_environment.variables_of_workers(kind, asked), **(env.env_vars if env else {})}
    runtime_env: dict[str, object] = {"env_vars": variables} if variables else {}
    if env and env.pip:
        runtime_env |= _packages(env.pip, inherited)
    if env and env.working_dir:
        runtime_env["working_dir"] = env.working_dir
    if runtime_env:
        options["runtime_env"] = runtime_env
    return {name: value for name, value in options.items() if value is not None}


def _packages(added: Collection[str], inherited: Mapping[str, Any]) -> dict[str, object]:
    """The packages of a runtime_env and `added`, with the installer of the former."""
    installer = "uv" if "uv" in inherited else "pip"
    there = inherited.get(installer) or []
    options = dict(there) if isinstance(there, Mapping) else {"packages": there}
    packages = dict.fromkeys([*options["packages"], *added])
    return {installer: {**options, "packages": list(packages)}}


def _amounts(amounts: dict[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in sorted(amounts.items()))
