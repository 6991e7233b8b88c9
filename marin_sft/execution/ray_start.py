"""Starting a private Ray. If the start fails half way, no process of it is left behind.

A head process that dies during the start is noticed at once. Ray itself would wait for up to a minute, then raise or
end this process from C++ code.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from marin_sft.errors import InfrastructureLoss
from marin_sft.execution import ray_environment
from marin_sft.execution.background import background
from marin_sft.execution.process import descendants

if TYPE_CHECKING:
    from ray.job_config import JobConfig

_HEAD = ("gcs_server", "raylet")
_SECONDS = 0.2  # between two checks of them


def start_local(ray: ModuleType, job: JobConfig) -> Any:
    """Call `ray.init` for this machine and return its result. job: this driver, for Ray's list of jobs.

    If a head process dies, this process exits with code 2.

    Raises:
        InfrastructureLoss: Ray did not start.
    """
    ray_environment.keep_token_private()
    before = set(descendants(os.getpid()))
    try:
        with background(functools.partial(_watch, before)), _agent_takes_a_free_port():
            return ray.init(**ray_environment.local_options(), job_config=job)
    except Exception as error:
        ray.shutdown()
        _kill(set(descendants(os.getpid())) - before)
        raise InfrastructureLoss(_text(str(error).strip().partition("\n")[0])) from error


@contextlib.contextmanager
def _agent_takes_a_free_port() -> Iterator[None]:
    """By default it takes one fixed port: the second Ray on a machine would have no agent, so no logs of tasks on its
    dashboard. `ray start` has an option for it, `ray.init` has none."""
    from ray._private import parameter

    parameters = parameter.RayParams
    parameter.RayParams = functools.partial(parameters, dashboard_agent_listen_port=0)
    try:
        yield
    finally:
        parameter.RayParams = parameters


def _watch(before: set[int], ended: threading.Event) -> None:
    started: dict[int, str] = {}
    while not ended.wait(_SECONDS):
        alive = descendants(os.getpid())
        gone = sorted({name for pid, name in started.items() if name in _HEAD and pid not in alive})
        started |= {pid: name for pid, name in alive.items() if pid not in before}
        if gone and not ended.is_set():
            _kill(started)  # including children of the dead process, which are orphans now
            print(f"error: {_text(f'its {gone[0]} has ended')}", file=sys.stderr, flush=True)
            os._exit(2)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _text(what: str) -> str:
    logs = os.path.join(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "session_latest", "logs")
    return (
        f"Ray did not start on this machine: {what}. No step was started and nothing is left running; run the same "
        f"command again. If it fails again, see {logs}, and check free memory and disk space"
    )
