"""A Ray cluster on hosts of `tests.hosts.hosts`: a head, where launches run, and workers."""

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from marin_sft.execution.failure_detection import FAILURE_DETECTION
from tests.hosts.hosts import ROOT, Host, Hosts, pid_inside, wait_for

PORT, DASHBOARD = 6379, 8265
_MEMORY = 4 * 2**30
_LEFT = """
import ray
from ray.util.placement_group import placement_group_table
ray.init(logging_level="ERROR")
print([group["name"] for group in placement_group_table().values() if group["state"] != "REMOVED"])
"""


class RayOnHosts:
    """`hosts[0]` is the head; each other host is a worker with the same options.

    dashboard: also start the dashboard, which takes jobs.
    options: more words for `ray start` of workers.
    """

    def __init__(self, hosts: Hosts, workers: int, scratch: Path, *options: str, dashboard: bool = False) -> None:
        self.hosts, self.head, self.scratch = hosts, hosts[0], scratch
        self._options = options
        self._starts: dict[Host, subprocess.Popen] = {}
        token = scratch / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(16))
        self.env = {
            **FAILURE_DETECTION,
            "RAY_ADDRESS": f"{self.head.address}:{PORT}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        shown = f"--include-dashboard={str(dashboard).lower()}"
        head = ["--head", f"--port={PORT}", shown, f"--dashboard-host={self.head.address}", "--num-cpus=0"]
        self._start(self.head, *head)
        self._await_start(self.head)
        workers_now = [hosts[i + 1] for i in range(workers)]
        for host in workers_now:
            self._start_worker(host)
        for host in workers_now:
            self._await_start(host)

    def _start(self, host: Host, *words: str) -> None:
        common = [f"--node-ip-address={host.address}", "--object-store-memory=100000000", "--block"]
        with self.log(host).open("w") as log:
            start = host.start("ray", "start", *words, *common, env=self.env, stdout=log, stderr=subprocess.STDOUT)
        self._starts[host] = start

    def _start_worker(self, host: Host) -> None:
        self.use_memory(host, 0.1)
        host.mount("--bind", str(self._memory(host)), "/sys/fs/cgroup")
        self._start(host, f"--address={self.env['RAY_ADDRESS']}", "--num-cpus=2", *self._options)

    def _await_start(self, host: Host) -> None:
        def started() -> bool:
            text = self.log(host).read_text()
            assert self._starts[host].poll() is None, text
            return "Ray runtime started" in text

        wait_for(started, what=f"Ray on {host.name}")

    @property
    def workers(self) -> list[Host]:
        return [host for host in self._starts if host is not self.head and host.is_up]

    def replace(self, host: Host) -> None:
        """Kill a host, if it is still there, and let another join."""
        host.kill()
        self.join(self.hosts.add())

    def log(self, host: Host) -> Path:
        return self.scratch / f"ray-{host.name}.log"

    def join(self, host: Host) -> None:
        """Start a worker on another host. Returns when it has joined."""
        self._start_worker(host)
        self._await_start(host)

    def terminate(self, host: Host) -> subprocess.Popen:
        """SIGTERM to the host's `ray start --block`, as when it is about to be taken away. Its process, which ends."""
        start = self._starts[host]
        os.kill(pid_inside(start), signal.SIGTERM)
        return start

    def _memory(self, host: Host) -> Path:
        return self.scratch / f"memory-{host.name}"

    def use_memory(self, host: Host, share: float) -> None:
        """Let Ray find that so much of the memory of a worker's host is used. It kills what runs there at 0.95."""
        used, directory = int(share * _MEMORY), self._memory(host)
        directory.mkdir(exist_ok=True)
        (directory / "memory.max").write_text(f"{_MEMORY}\n")
        (directory / "memory.current").write_text(f"{used}\n")
        (directory / "memory.stat").write_text(f"anon {used}\nshmem 0\nactive_file 0\ninactive_file 0\nswapcached 0\n")

    def launch(self, *command: str, **options: Any) -> subprocess.Popen:
        """A command of Python on the head, as a user would type it there."""
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
        return self.head.start(sys.executable, *command, env=self.env, **output)

    def placement_groups(self) -> list[str]:
        """The names of those that there are."""
        return eval(self.head.run(sys.executable, "-c", _LEFT, env=self.env).splitlines()[-1])
