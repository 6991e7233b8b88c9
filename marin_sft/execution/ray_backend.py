"""Attempts as Ray tasks, each under its step's name. This module owns the rules for starting Ray.

With RAY_ADDRESS set, tasks go to that cluster, in the same environment there, or with the working directory named by
MARIN_SFT_WORKING_DIR shipped along. Without it a Ray of this process's own starts on loopback, and only when something
has to run; it never attaches to another Ray that it finds on the machine.
"""

from __future__ import annotations

import importlib.util
import os
from concurrent.futures import Future
from typing import Any

from marin_sft.errors import ConfigError, InfrastructureLoss, UserError
from marin_sft.execution.resources import CpuConfig, GpuConfig, Resources, TpuPodConfig
from marin_sft.execution.signals import handler_of_sigterm_kept
from marin_sft.execution.worker import Outcome, Task, run_attempt

# Ray lets workers of one runtime environment serve any task; those of this one serve fresh_process steps only, once.
_OWN_WORKERS = {"env_vars": {"MARIN_SFT_FRESH_PROCESS": "1"}}


class RayBackend:
    """Starts or joins Ray on the first `submit`, or at `start`."""

    capacity: int | None = None

    def __init__(self) -> None:
        self._ray: Any = None
        self._remote: dict[bool, Any] = {}
        self._local = not os.environ.get("RAY_ADDRESS")
        self.dashboard_url: str | None = None

    def start(self) -> None:
        if self._ray is not None:
            return
        os.environ.update({name: value for name, value in _environment().items() if name not in os.environ})
        import ray

        try:
            with handler_of_sigterm_kept():  # Ray sets one that exits without a word
                context = ray.init(**(_local_options() if self._local else _cluster_options()))
        except ConnectionError as error:
            raise UserError(f"{error}; start that cluster, or unset RAY_ADDRESS to run on this machine") from error
        self._ray = ray
        self.dashboard_url = context.dashboard_url and f"http://{context.dashboard_url}"
        # Retries are ours, so that each one is an attempt with a record.
        self._remote = {
            False: ray.remote(max_retries=0)(run_attempt),
            True: ray.remote(max_retries=0, max_calls=1, runtime_env=_OWN_WORKERS)(run_attempt),
        }

    def submit(self, task: Task) -> Future[Outcome]:
        self.start()
        options = _task_options(task.resources, self._ray.cluster_resources(), self._local)
        reference = self._remote[task.fresh_process].options(name=task.name, **options).remote(task, own_process=True)
        done: Future[Outcome] = Future()
        reference.future().add_done_callback(lambda future: self._hand_over(future, done))
        return done

    def _hand_over(self, future: Any, done: Future[Outcome]) -> None:
        error = future.exception()
        lost = (
            self._ray.exceptions.WorkerCrashedError,
            self._ray.exceptions.NodeDiedError,
            self._ray.exceptions.OutOfMemoryError,
            self._ray.exceptions.RaySystemError,
        )
        if error is None:
            done.set_result(future.result())
        elif isinstance(error, lost):
            done.set_exception(InfrastructureLoss(str(error).splitlines()[0]))
        else:
            done.set_exception(error)

    def close(self) -> None:
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None


def _environment() -> dict[str, str]:
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if os.environ.get("RAY_ADDRESS", "127.0.0.1").partition(":")[0] in ("127.0.0.1", "localhost"):
        # Despite its name it makes Ray on Linux, too, bind every port to 127.0.0.1 and take that address as it is;
        # without it Ray puts the address of a network card in its place.
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if "RAY_ADDRESS" in os.environ and _has_token():
        variables["RAY_AUTH_MODE"] = "token"  # what a cluster asks for by default, and a driver does not offer
    return variables


def _has_token() -> bool:
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    return "RAY_AUTH_TOKEN" in os.environ or os.path.exists(path)


def _common_options() -> dict[str, Any]:
    return {"namespace": "marin_sft", "log_to_driver": False, "logging_level": "ERROR"}


def _local_options() -> dict[str, Any]:
    dashboard = importlib.util.find_spec("aiohttp_cors") is not None  # comes with ray[default], as the dashboard does
    return {
        **_common_options(),
        "address": "local",
        "include_dashboard": dashboard,
        "dashboard_host": "127.0.0.1",
    }


def _cluster_options() -> dict[str, Any]:
    working_dir = os.environ.get("MARIN_SFT_WORKING_DIR")
    shipped = {"working_dir": working_dir, "excludes": [".git", ".venv", "store"]} if working_dir else {}
    return {**_common_options(), "runtime_env": shipped}


def _task_options(resources: Resources, available: dict[str, float], local: bool) -> dict[str, Any]:
    """Ray's options for a request. A laptop has what it has: there, the request is cut down to what exists."""
    options: dict[str, Any] = {"num_cpus": resources.cpus}
    if resources.memory is not None:
        options["memory"] = resources.memory
    if isinstance(resources, GpuConfig):
        options["num_gpus"] = resources.gpu_count
        if resources.accelerator_type is not None:
            options["accelerator_type"] = resources.accelerator_type
    elif isinstance(resources, TpuPodConfig):
        options["resources"] = {f"TPU-{resources.tpu_type}-head": 1}
    elif type(resources) not in (Resources, CpuConfig):
        raise ConfigError(f"resources: expected CpuConfig, GpuConfig or TpuPodConfig, got {resources!r}")
    return _cut_down(options, available) if local else options


def _cut_down(options: dict[str, Any], available: dict[str, float]) -> dict[str, Any]:
    cut = {"num_cpus": min(options["num_cpus"], available.get("CPU", 1))}
    if "memory" in options:
        cut["memory"] = min(options["memory"], available.get("memory", options["memory"]))
    if "num_gpus" in options and available.get("GPU", 0):
        cut["num_gpus"] = min(options["num_gpus"], available["GPU"])
    return cut
