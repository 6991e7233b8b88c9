"""Several processes of one training on this machine, as on several hosts.

    ended = together((train, config, batches), (other, ...), processes=2, devices=2)

Each process makes all calls, one after another. Functions and arguments are pickled, so child processes must be able to
import them.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# For programs that are compared with each other alone: optimised ones round otherwise.
FASTER_TO_COMPILE = "--xla_backend_optimization_level=0"


@dataclass(frozen=True)
class Ended:
    """A process that has ended. results: of the calls; None if it failed."""

    status: int
    output: str
    results: list[Any] | None


def together(
    *calls: tuple[Any, ...], processes: int = 2, devices: int = 1, shutdown_seconds: int = 60, flags: str = ""
) -> list[Ended]:
    """What became of each process. One that takes more than twenty minutes prints its stacks, and ends.

    flags: of XLA.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "calls").write_bytes(pickle.dumps(calls))
        address, paths = free_address(), [Path(folder, str(i)) for i in range(processes)]
        arguments = [address, str(processes), str(shutdown_seconds), f"{folder}/calls"]
        started = [started_child(devices, flags, [*arguments, str(path)], path.with_suffix(".log")) for path in paths]
        try:
            statuses = [child.wait() for child in started]
        finally:
            for child in started:
                child.kill()
                child.wait()
        results = [pickle.loads(path.read_bytes()) if path.exists() else None for path in paths]
        return [
            Ended(status, path.with_suffix(".log").read_text(), result)
            for status, path, result in zip(statuses, paths, results, strict=True)
        ]


def results_of(ended: list[Ended]) -> list[list[Any]]:
    """By process, after all have ended well."""
    assert [process.status for process in ended] == [0] * len(ended), "\n".join(process.output for process in ended)
    return [process.results or [] for process in ended]


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def started_child(devices: int, flags: str, arguments: list[str], log: Path) -> subprocess.Popen:
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {flags}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
    }
    with log.open("w") as file:
        command = [sys.executable, __file__, *arguments]
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def main(address: str, processes: str, shutdown_seconds: str, calls: str, result: str) -> None:
    faulthandler.dump_traceback_later(1200, exit=True)
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address,
        int(processes),
        int(Path(result).name),
        shutdown_timeout_seconds=int(shutdown_seconds),
        heartbeat_timeout_seconds=30,
        coordinator_bind_address=address,
    )
    found = [function(*arguments) for function, *arguments in pickle.loads(Path(calls).read_bytes())]
    Path(result).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
