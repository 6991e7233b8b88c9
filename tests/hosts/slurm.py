"""A real Slurm on hosts of `tests.hosts.hosts`, from Debian's packages, which `make slurm` unpacks into .slurm/."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.hosts.hosts import ROOT, Host, Hosts, wait_for

_UNPACKED = ROOT / ".slurm" / "usr"
# Programs that Debian names by a link. Slurm also looks for its own parts at the paths that it was built for.
_NAMES = ("slurmctld", "slurmd", "slurmstepd")
_LAID_OVER = ("bin", "sbin", "lib/x86_64-linux-gnu")
_NOT_OVER = {"RUNNING", "PENDING", "COMPLETING", "CONFIGURING"}


def impossible() -> str | None:
    return None if (_UNPACKED / "sbin" / "slurmd-wlm").exists() else "there is no Slurm in .slurm; `make slurm` gets it"


class Slurm:
    """`hosts[0]` controls, each other host is a node with two CPUs."""

    def __init__(self, hosts: Hosts, nodes: int, scratch: Path) -> None:
        self._controller, self._scratch = hosts[0], scratch
        self._workers = [hosts[i + 1] for i in range(nodes)]
        (scratch / "state").mkdir()
        self._config = scratch / "slurm.conf"
        self._config.write_text(_config(self._controller, self._workers, scratch))
        self._env = {"SLURM_CONF": str(self._config)}
        for host in (self._controller, *self._workers):
            _unpack_into(host)
        self._start(self._controller, "slurmctld", "-D")
        for host in self._workers:
            self._start(host, "slurmd", "-D", "-N", host.name)
        wait_for(lambda: self._states() == ["idle"] * nodes, what=f"Slurm; see {scratch}/*.log;")

    def _start(self, host: Host, *command: str) -> None:
        with (self._scratch / f"{host.name}.log").open("w") as log:
            host.start(*command, env=self._env, stdout=log, stderr=subprocess.STDOUT)

    def _states(self) -> list[str]:
        try:
            return self.run("sinfo", "--noheader", "--Node", "--format=%T").split()
        except AssertionError:  # not up yet
            return []

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        """A command of Slurm, on the controller."""
        return self._controller.run(*command, env={**self._env, **(env or {})})

    def submit(self, output: Path, *command: str, env: Mapping[str, str] | None = None) -> str:
        """Submit a script, with its options before it and its arguments after it. Returns the number of the job."""
        return self.run("sbatch", "--parsable", f"--output={output}", *command, env=env).strip()

    def processes(self) -> list[str]:
        """What runs on the nodes, besides Slurm itself."""
        lines = [line for host in self._workers for line in host.run("ps", "-eo", "args", "--no-headers").splitlines()]
        return [line for line in lines if not line.startswith(("slurmd", "ps ", f"{sys.executable} -IS -c"))]

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, ExitCode, StartTime and more."""
        words = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def end_of(self, number: str, seconds: float = 300) -> dict[str, str]:
        """Wait until a job has ended, and return what `job` says."""

        def ended() -> dict[str, str] | None:
            job = self.job(number)
            return None if job["JobState"] in _NOT_OVER else job

        return wait_for(ended, seconds, f"the end of job {number}")


def _config(controller: Host, workers: list[Host], scratch: Path) -> str:
    names = ",".join(host.name for host in workers)
    nodes = "\n".join(f"NodeName={host.name} NodeAddr={host.address} CPUs=2 RealMemory=1000" for host in workers)
    return f"""
ClusterName=test
SlurmctldHost={controller.name}({controller.address})
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/linear
SchedulerType=sched/builtin
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=10
StateSaveLocation={scratch}/state
SlurmdSpoolDir={scratch}/spool_%n
SlurmctldPidFile={scratch}/slurmctld.pid
SlurmdPidFile={scratch}/slurmd_%n.pid
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


def _unpack_into(host: Host) -> None:
    """Lay the packages over the host's own directories; the machine's stay as they are."""
    for name in _NAMES:
        link = _UNPACKED / "sbin" / name
        if not link.is_symlink():
            link.symlink_to(f"{name}-wlm")
    for part in _LAID_OVER:
        lower = f"lowerdir={_UNPACKED / part}:/usr/{part}"
        host.mount("-t", "overlay", "overlay", "-o", lower, f"/usr/{part}")
