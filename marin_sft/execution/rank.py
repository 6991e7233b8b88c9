"""One process of a step that runs on several hosts: an actor on its host, joined to the others by jax.distributed."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from marin_sft import preemption
from marin_sft.errors import InfrastructureLoss, MarinSftError, Preempted
from marin_sft.execution import drains, out_of_memory
from marin_sft.execution.attempt_log import AttemptLog
from marin_sft.execution.background import background
from marin_sft.execution.body import changed_source, exits, run_body
from marin_sft.execution.identity import Payload
from marin_sft.execution.ray_failure import shown_by_ray
from marin_sft.execution.step_state import Failure
from marin_sft.execution.stores import open_store
from marin_sft.execution.terminal import without_colours
from marin_sft.progress import Progress

HEARTBEAT = 100  # seconds until jax.distributed aborts all processes; by then, the coordinator has judged
START = 300  # seconds for all processes to join
SHUTDOWN = 24 * 3600  # seconds that the others wait at the end: process 0 may have a large model to write

# What errors contain in a process whose collective, or whose jax.distributed, lost another process.
_COLLECTIVES = ("gloo", "nccl")
_TOLD = "TrainingError: process "  # what training says when another process has failed; that one has the traceback
_JAX_ERRORS = ("JaxRuntimeError", "XlaRuntimeError")
_ABOUT_OTHERS = (
    *("connection reset", "connection closed", "connection refused", "broken pipe", "socket closed"),
    *("coordination service", "coordinationservice", "heartbeat", "barrier", "deadline_exceeded", "unavailable"),
)


@dataclass(frozen=True)
class Place:
    """Where a rank runs.

    address: a free port there.
    kills: how many processes the kernel had killed on that host for their memory use.
    stacks: the file that gets the process's stacks upon SIGUSR1.
    """

    node: str
    host: str
    pid: int
    address: str
    kills: int
    stacks: str


@dataclass(frozen=True)
class Ended:
    """How a rank ended, if its process lives. All None: well.

    about_others: the failure says only that another process was lost.
    preempted: what was kept, and why.
    """

    failure: Failure | None = None
    about_others: bool = False
    preempted: str | None = None
    lost: str | None = None


class RankEnded(MarinSftError):
    """Raised by a rank that did not end well, so that Ray shows it as failed. The coordinator sees how it `ended`."""

    def __init__(self, rank: int, ended: Ended) -> None:
        super().__init__(rank, ended)
        self.rank, self.ended = rank, ended

    def __str__(self) -> str:
        ended = self.ended
        return shown_by_ray(
            f"rank {self.rank}", ended.failure or Failure(ended.lost or ended.preempted or "", None, "")
        )


@dataclass(frozen=True)
class Work:
    """What all ranks of an attempt get; see `Task`. coordinator: the address of jax.distributed, on rank 0's host."""

    fn: Callable[[Any], object]
    config: object
    payload: Payload
    prefix: str
    directory: str
    claim: int
    output: str
    secrets: Mapping[str, str]
    coordinator: str = ""
    ranks: int = 1


class Rank:
    """The actor."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._news: Progress | None = None
        self._log: AttemptLog | None = None
        self._told = 0  # bytes of the log that the coordinator has

    def place(self) -> Place:
        import ray

        ip = ray.util.get_node_ip_address()
        with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET) as free:
            free.bind((ip, 0))
            port = free.getsockname()[1]
        return Place(
            node=ray.get_runtime_context().get_node_id(),
            host=socket.gethostname(),
            pid=os.getpid(),
            address=f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}",
            kills=out_of_memory.kernel_kills(),
            stacks=_stacks_on_signal(),
        )

    def run(self, work: Work, variables: Mapping[str, str]) -> Ended:
        """Run the step's body with the others.

        Raises:
            RankEnded: it did not end well.
            StoreError: the store failed.
        """
        ended = self._run(work, variables)
        if ended != Ended():
            raise RankEnded(self._number, ended)
        return ended

    def _run(self, work: Work, variables: Mapping[str, str]) -> Ended:
        os.environ.update({**work.secrets, **variables})
        store = open_store(work.prefix)
        self._log = AttemptLog(store, work.output, own_process=True, name=f".log-{self._number}")
        with self._log, _uploaded(self._log), drains.heeded(), exits(store, work.directory, work.claim):
            if changed := changed_source(work.config, work.payload):
                return Ended(changed)
            try:
                self._join(work)
            except Exception as error:
                traceback.print_exc()
                return Ended(lost=f"jax.distributed did not start: {line_of(error)}")
            try:
                failure = run_body(work.fn, work.config, self._hear)
            except Preempted as notice:
                return Ended(preempted=str(notice))
            except InfrastructureLoss as loss:
                return Ended(lost=str(loss))
            if failure is None:
                self._leave()
                return Ended()
            return Ended(failure, about_others=_about_others(failure))

    def _join(self, work: Work) -> None:
        import jax

        # JAX's own service would replace the handler of SIGTERM.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            work.coordinator,
            work.ranks,
            self._number,
            cluster_detection_method="deactivate",
            initialization_timeout=START,
            coordinator_bind_address=work.coordinator,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )

    def _leave(self) -> None:
        import jax

        with contextlib.suppress(Exception):  # the body has ended well, and the attempt may commit
            jax.distributed.shutdown()

    def _hear(self, news: Progress) -> None:
        self._news = news

    def news(self) -> tuple[Progress | None, str]:
        """The latest progress, and what was printed since the last call."""
        printed = b""
        if self._log is not None:
            printed = self._log.since(self._told)
            self._told += len(printed)
        return self._news, printed.decode(errors="replace")

    def answer(self) -> None:
        """Show that the process is not stuck."""

    def warn(self) -> None:
        """The step will be stopped soon."""
        preemption.warn()

    def stacks(self) -> str:
        """What each thread of this process is doing."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        found = io.StringIO()
        for ident, frame in sys._current_frames().items():
            if ident != threading.get_ident():
                print(f"thread {names.get(ident, ident)}:", *traceback.format_stack(frame), sep="\n", file=found)
        return found.getvalue()


def stacks_of(place: Place) -> str:
    """The stacks of a rank on this host that does not answer, from py-spy if it is installed, else by SIGUSR1."""
    if spy := shutil.which("py-spy"):
        command = [spy, "dump", "--pid", str(place.pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode == 0:
            return done.stdout
    deadline = time.monotonic() + 5
    with contextlib.suppress(OSError):
        os.kill(place.pid, signal.SIGUSR1)
        while time.monotonic() < deadline:
            with open(place.stacks) as file:
                if found := file.read():
                    return found
            time.sleep(0.1)
    return "no stacks: the process is stopped, and py-spy is not installed on its host"


def _stacks_on_signal() -> str:
    """Let SIGUSR1 write this process's stacks to a file in memory, even while a thread holds Python's lock."""
    file = os.memfd_create("stacks")
    faulthandler.register(signal.SIGUSR1, file, all_threads=True)
    return f"/proc/{os.getpid()}/fd/{file}"


@contextlib.contextmanager
def _uploaded(log: AttemptLog) -> Iterator[None]:
    """Upload the log of a rank now and then, as the beat does for the attempt's own."""

    def run(ended: threading.Event) -> None:
        while not ended.wait(10):
            with contextlib.suppress(OSError):
                log.upload()

    with background(run):
        yield


def _about_others(failure: Failure) -> bool:
    if failure.error.startswith(_TOLD):
        return True
    text = failure.error.lower()
    marks = (*_COLLECTIVES, *(_ABOUT_OTHERS if failure.error.startswith(_JAX_ERRORS) else ()))
    return any(mark in text for mark in marks)


def line_of(error: BaseException) -> str:
    """An error's type, and the first line of its text."""
    return f"{type(error).__name__}: {(without_colours(str(error)).splitlines() or [''])[0]}"
