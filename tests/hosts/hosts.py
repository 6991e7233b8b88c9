"""Several hosts on one machine: network namespaces on a bridge, each with processes, mounts and a name of its own.

Other processes see no name of a namespace, a link or a mount. The kernel removes each with its last process, and every
process ends with the one that made it, even by kill -9. So runs cannot collide, and nothing is left behind.
"""

import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from marin_sft.execution.process import descendants

ROOT = Path(__file__).parents[2]
_TOOLS = ("ip", "nsenter", "setpriv", "unshare")
# The first process of a namespace. It reaps its orphans.
_INIT = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(flush=True)
while True:
    signal.pause()
"""
_NETWORK = "10.99.0."
_T = TypeVar("_T")


@functools.cache
def impossible() -> str | None:
    """Why hosts cannot be made here; None when they can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    if lacking := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"there is no {', '.join(lacking)}"
    tried = subprocess.run(["unshare", "--net", "ip", "link", "add", "type", "bridge"], capture_output=True, text=True)
    return f"this machine makes no network namespaces: {tried.stderr.strip()}" if tried.returncode else None


def wait_for(look: Callable[[], _T], seconds: float = 120, what: str = "it") -> _T:
    """What `look` finds first."""
    ends = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < ends, f"{what} did not come about in {seconds:g} s"
        time.sleep(0.02)
    return found


def pid_inside(process: subprocess.Popen) -> int:
    """The process, by its number on this machine, of a command that `Host.start` started."""
    return next(iter(descendants(process.pid)))


class _Namespaces:
    """Namespaces that last until `end`, or until this process ends."""

    def __init__(self, *kinds: str) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", *kinds, "--pid", "--fork", "--kill-child"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._outer = subprocess.Popen([*command, sys.executable, "-IS", "-c", _INIT], text=True, **pipes)
        assert self._outer.stdout is not None and self._outer.stderr is not None
        assert self._outer.stdout.readline() == "\n", self._outer.stderr.read()
        (self.pid,) = descendants(self._outer.pid)

    def entered(self, *kinds: str) -> list[str]:
        """The words to put before a command to run it inside."""
        return ["nsenter", "--target", str(self.pid), *kinds]

    @property
    def are_there(self) -> bool:
        return self._outer.poll() is None

    def end(self) -> None:
        """Kill everything inside. Returns when all of it has ended."""
        if self.are_there:
            os.kill(self.pid, signal.SIGKILL)
            self._outer.communicate()


class Host:
    """It shares all files with this machine, except for /tmp, /dev/shm and /etc/hosts."""

    def __init__(self, number: int, switch: _Namespaces, shared: Path) -> None:
        self.name, self.address = _name(number), _address(number)
        self._inside = _Namespaces("--net", "--mount", "--uts", "--ipc", "--mount-proc")
        self._port, self._switch = f"port{number}", switch
        self._set_port("add", "type", "veth", "peer", "name", "eth0", "netns", str(self._inside.pid))
        self._set_port("set", "master", "switch", "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("hostname", self.name)
        self.mount("--bind", str(shared / "hosts"), "/etc/hosts")
        self.mount("-t", "tmpfs", "-o", "size=2g,mode=1777", "tmpfs", "/dev/shm")
        self._mount_tmp(shared, ROOT, Path(sys.prefix))

    def _mount_tmp(self, *shared: Path) -> None:
        """A /tmp of its own, in which these directories still are if they lie there."""
        self.mount("-t", "tmpfs", "-o", "size=2g,mode=1777", "tmpfs", "/mnt")
        for path in shared:
            if path.is_relative_to("/tmp"):
                place = f"/mnt/{path.relative_to('/tmp')}"
                self.run("mkdir", "-p", place)
                self.mount("--rbind", str(path), place)
        self.mount("--rbind", "/mnt", "/tmp")

    def _set_port(self, action: str, *words: str) -> None:
        enter = self._switch.entered("--net")
        subprocess.run([*enter, "ip", "link", action, self._port, *words], check=True, capture_output=True, text=True)

    def _entered(self, command: tuple[str, ...]) -> list[str]:
        enter = self._inside.entered("--net", "--mount", "--uts", "--ipc", "--pid")
        return [*enter, "env", "-C", str(ROOT), *command]

    def start(self, *command: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen:
        """A command inside. env: added to this process's environment."""
        return subprocess.Popen(self._entered(command), env={**os.environ, **(env or {})}, text=True, **options)

    def run(self, *command: str, env: Mapping[str, str] | None = None, timeout: float = 120) -> str:
        """What a command prints that succeeds."""
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(
            self._entered(command), env={**os.environ, **(env or {})}, text=True, timeout=timeout, **output
        )
        assert done.returncode == 0, f"{self.name}: {' '.join(command)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    @property
    def is_up(self) -> bool:
        return self._inside.are_there

    def kill(self) -> None:
        """kill -9 of every process. The host does not come back; `Hosts.add` makes another."""
        self._inside.end()

    def mount(self, *words: str) -> None:
        self.run("mount", *words)

    def cut(self) -> None:
        """From now on the network loses all that the host sends and is sent, without a word to anyone."""
        self._set_port("set", "nomaster")


class Hosts:
    """`with Hosts(3, directory) as hosts:`; `hosts[0]` is the first. All see the directory under the same path."""

    def __init__(self, count: int, shared: Path) -> None:
        self._count, self._shared, self._numbers = count, shared, itertools.count()
        self._all: list[Host] = []

    def __enter__(self) -> "Hosts":
        names = "".join(f"{_address(number)} {_name(number)}\n" for number in range(240))
        if not (file := self._shared / "hosts").exists():  # always the same; other hosts may have mounted it
            file.write_text(f"127.0.0.1 localhost\n{names}")
        self._switch = _Namespaces("--net")
        add = [*self._switch.entered("--net"), "ip", "link", "add", "switch", "up", "type", "bridge"]
        subprocess.run(add, check=True)
        for _ in range(self._count):
            self.add()
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._all:
            host.kill()
        self._switch.end()

    def __getitem__(self, index: int) -> Host:
        return self._all[index]

    def add(self) -> Host:
        """A host with an address that none had before."""
        self._all.append(Host(next(self._numbers), self._switch, self._shared))
        return self._all[-1]


def _name(number: int) -> str:
    return f"host{number}"


def _address(number: int) -> str:
    return f"{_NETWORK}{10 + number}"
