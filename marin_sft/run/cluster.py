"""A Ray head of the user's own on this machine: `marin-sft cluster up` starts it, and `down` ends what `up` started.

A record names its processes, with their start times. `ray stop` would end every Ray on the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from marin_sft.disk import write_whole
from marin_sft.errors import InfrastructureLoss
from marin_sft.execution import ray_environment
from marin_sft.execution.process import ProcessIdentity, descendants

PORT, DASHBOARD_PORT = 6379, 8265
NO_CLUSTER = (
    "no cluster: start one on this machine with marin-sft cluster up, or set --address or RAY_ADDRESS to that of a "
    "head, e.g. 10.0.0.2:6379"
)
_STARTED = "Ray runtime started"  # what `ray start` prints
_POLL = 0.1
_TO_START = 180.0  # seconds
_TO_END = 15.0  # seconds after SIGTERM, before SIGKILL


@dataclass(frozen=True)
class Head:
    """A Ray head that `up` started.

    address: for RAY_ADDRESS. dashboard: its URL. metrics: the file with the addresses of metrics, for Prometheus.
    processes: the first is `ray start`, which started the others.
    """

    address: str
    dashboard: str
    processes: tuple[ProcessIdentity, ...]

    @property
    def metrics(self) -> str:
        return f"{_private_directory()}/prom_metrics_service_discovery.json"

    @property
    def alive(self) -> list[ProcessIdentity]:
        return [process for process in self.processes if process.in_sight and not process.is_gone()]


def read_head() -> Head | None:
    """The head of this machine, if it is up, or a part of it is left."""
    try:
        with open(_place("json")) as file:
            found = json.load(file)
        head = Head(found["address"], found["dashboard"], tuple(ProcessIdentity(**p) for p in found["processes"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return head if head.alive else None


def start_head(options: Sequence[str] = (), port: int | None = None, dashboard_port: int | None = None) -> Head:
    """options: further ones of `ray start`. Ports that are not given are Ray's usual ones, if they are free.

    Raises:
        InfrastructureLoss: it did not start. Nothing is left running.
    """
    ray_environment.keep_token_private()
    try:
        return _start(options, port or free_port(PORT), dashboard_port or free_port(DASHBOARD_PORT))
    except InfrastructureLoss:
        if port or dashboard_port:
            raise
        return _start(options, free_port(), free_port())  # another Ray has taken one of the ports in the meantime


def _start(options: Sequence[str], port: int, dashboard_port: int) -> Head:
    ports = {
        "port": port,
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": free_port(),
        "ray-client-server-port": free_port(),
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=true"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--disable-usage-stats"]
    command += [f"--{name}={number}" for name, number in ports.items()]
    command += [f"--temp-dir={_private_directory()}"]
    os.makedirs(os.path.dirname(_place("log")), mode=0o700, exist_ok=True)
    with open(os.open(_place("log"), os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as log:
        process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=ray_environment.environment_of_head(),
            start_new_session=True,
            umask=0o077,  # logs and sockets are this user's
        )
    first = ProcessIdentity.of(process.pid)
    head = Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}", (first,))
    try:
        return _await_start(head, process)
    except BaseException:
        stop_head(read_head() or head)  # the record has what it had started
        raise


def _await_start(head: Head, process: subprocess.Popen[bytes]) -> Head:
    give_up = time.monotonic() + _TO_START
    while process.poll() is None and time.monotonic() < give_up:
        found = _with_descendants(head)
        if len(found.processes) > len(head.processes):
            head = found
            _write(head)
        with open(_place("log"), errors="replace") as log:
            text = log.read()
        if _STARTED in text:
            _write(found)
            return found
        time.sleep(_POLL)
    with open(_place("log"), errors="replace") as log:
        lines = [line.strip() for line in log if line.strip()]
    raise InfrastructureLoss(f"Ray did not start: {lines[-1] if lines else 'no output'}; see {_place('log')}")


def stop_head(head: Head) -> int:
    """End it and all that it started. Returns how many processes that were."""
    processes = _with_descendants(head).alive
    _signal(processes[:1], signal.SIGTERM)  # `ray start` ends the others in order
    _await_end(processes)
    _signal(processes, signal.SIGKILL)
    _await_end(processes)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_place("json"))
    return len(processes)


def _await_end(processes: Sequence[ProcessIdentity]) -> None:
    give_up = time.monotonic() + _TO_END
    while time.monotonic() < give_up and not all(process.is_gone() for process in processes):
        time.sleep(_POLL)


def _signal(processes: Iterable[ProcessIdentity], number: int) -> None:
    for process in processes:
        if not process.is_gone():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _with_descendants(head: Head) -> Head:
    """Also with the processes that the known ones have started since."""
    known = {process.pid: process for process in head.processes}
    for parent in head.alive:
        for pid in descendants(parent.pid):
            known.setdefault(pid, ProcessIdentity.of(pid))
    return replace(head, processes=tuple(known.values()))


def _write(head: Head) -> None:
    write_whole(_place("json"), json.dumps(asdict(head), indent=1))


def _place(kind: str) -> str:
    """A file about the head of this machine; the home directory may be shared by several."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "marin_sft", f"cluster-{socket.gethostname()}.{kind}")


def _private_directory() -> str:
    """For sockets, whose paths must be short, and logs. In /tmp/ray, jobs would be led to the newest Ray there."""
    outer = f"/tmp/marin_sft_{os.getuid()}"
    os.makedirs(outer, mode=0o700, exist_ok=True)
    if os.stat(outer).st_uid != os.getuid():
        raise InfrastructureLoss(f"{outer} belongs to another user, so a Ray head cannot keep its logs there")
    os.chmod(outer, 0o700)
    return f"{outer}/ray"  # which Ray opens to everyone


def free_port(preferred: int = 0) -> int:
    """This port of loopback if it is free, else any."""
    for port in (preferred, 0):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return int(listener.getsockname()[1])
    raise InfrastructureLoss("no free port on 127.0.0.1")
