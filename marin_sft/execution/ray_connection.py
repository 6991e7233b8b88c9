"""The Ray that steps run on: the one this process is connected to, the cluster at RAY_ADDRESS, or a private one.

An existing connection, after `ray.init()` or in a task or actor, belongs to the user. It is used and left as it is.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from marin_sft.errors import UserError
from marin_sft.execution import ray_environment, ray_start
from marin_sft.execution.process import descendants
from marin_sft.execution.ray_environment import NAME_OF_JOB, OUTPUT_OF_JOB
from marin_sft.execution.signals import handler_of_sigterm_kept

if TYPE_CHECKING:
    from ray.job_config import JobConfig

_WORKER = "default_worker.py"  # the script of Ray's worker processes


class RayContext(Protocol):
    """What `ray.init` returns."""

    dashboard_url: str | None


@dataclass(frozen=True)
class Connection:
    """A Ray to run tasks on.

    found: it existed before, and stays up.
    ends_with_driver: no other machine joins it, so a request for more than it has would never be served.
    dashboard_url: the URL of its dashboard, if known.
    """

    ray: ModuleType
    found: bool
    ends_with_driver: bool
    dashboard_url: str | None = None

    def close(self) -> None:
        if not self.found:
            self.ray.shutdown()

    def held(self) -> Mapping[str, float]:
        """The resources that the current Ray task or actor keeps while it waits for other tasks. Ray only lends out the
        CPUs of a waiting task."""
        if not in_worker():
            return {}
        context = self.ray.get_runtime_context()
        held = dict(context.get_assigned_resources())
        if context.get_actor_id() is None:
            held.pop("CPU", None)
        return held


def connect(metadata: Mapping[str, str] | None = None) -> Connection:
    """metadata: of this driver in Ray's list of jobs, besides its name and where its output goes.

    Raises:
    UserError: no Ray answers at RAY_ADDRESS.
    InfrastructureLoss: a private Ray did not start.
    """
    if found := _found():
        return Connection(found, True, _ends_with_driver(found), _dashboard_url(found))
    address = os.environ.get("RAY_ADDRESS") or None
    ray_environment.prepare(address)
    import ray

    with handler_of_sigterm_kept():  # Ray installs one that exits silently
        job = ray.job_config.JobConfig(metadata={**_about_driver(), **(metadata or {})})
        context = _join(ray, address, job) if address else ray_start.start_local(ray, job)
    return Connection(ray, False, address is None, context.dashboard_url and f"http://{context.dashboard_url}")


def would_be_private() -> bool:
    """Whether `connect` would start a Ray of this machine alone."""
    return _found() is None and not os.environ.get("RAY_ADDRESS")


def in_worker() -> bool:
    """Whether this process is a Ray worker, which runs a task or an actor."""
    ray = _found()
    return ray is not None and getattr(ray.get_runtime_context().worker, "mode", None) == ray.WORKER_MODE


def act_as_script() -> None:
    """In a Ray worker, set `__main__` and the command line to the script that its task comes from, without the
    script's flags: names, sources and records of steps depend on them. Elsewhere, do nothing."""
    if os.path.basename(sys.argv[0]) != _WORKER:
        return
    own = sys.argv[0]
    of_main = (frame.f_globals for frame, _ in traceback.walk_stack(None) if frame.f_globals["__name__"] == "__main__")
    script = next((file for names in of_main if (file := names.get("__file__")) and file != own), "")
    sys.argv = [script]
    if script:
        sys.modules["__main__"].__file__ = script


def _found() -> ModuleType | None:
    ray = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() else None


def _about_driver() -> dict[str, str]:
    """What Ray shows of the job that this process is. The dashboard has no log of what it prints."""
    return {
        NAME_OF_JOB: os.path.basename(sys.argv[0]).removesuffix(".py") or "python",
        OUTPUT_OF_JOB: f"where it was started: process {os.getpid()} on {socket.gethostname()}",
    }


def _join(ray: ModuleType, address: str, job: JobConfig) -> RayContext:
    try:
        return ray.init(**ray_environment.cluster_options(address), job_config=job)
    except ConnectionError as error:
        raise UserError(f"{error}; start that cluster, or unset RAY_ADDRESS to run on this machine") from error


def _ends_with_driver(ray: ModuleType) -> bool:
    """Whether the driver of this job started Ray, so that Ray's processes are children of the driver."""
    try:
        from ray._private.state import state

        job = ray.get_runtime_context().get_job_id()
        driver = next(found["DriverPid"] for found in state.job_table() if found["JobID"] == job)
    except Exception:  # a Ray client, or a version with other internals
        return False
    return len(ray.nodes()) == 1 and starts_ray(driver)


def starts_ray(pid: int) -> bool:
    """Whether this process of this machine has started a Ray head, which ends with it."""
    return "gcs_server" in descendants(pid).values()


def _dashboard_url(ray: ModuleType) -> str | None:
    """None in a worker, which can only guess it; its driver has printed it."""
    if in_worker():
        return None
    url = getattr(getattr(ray.get_runtime_context().worker, "node", None), "webui_url", None)
    return f"http://{url}" if url else None
