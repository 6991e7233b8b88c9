"""`marin-sft cluster up`, `status` and `down`, with a real Ray, on a machine where another one is up."""

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from marin_sft.execution.process import ProcessIdentity


class Command:
    """`marin-sft` in a home directory of its own."""

    def __init__(self, home: Path) -> None:
        own = ("RAY_", "MARIN_", "XDG_STATE_HOME")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(own)} | {"HOME": str(home)}
        self.record = home / ".local/state/marin_sft" / f"cluster-{os.uname().nodename}.json"

    def __call__(self, *words: str, code: int = 0, **env: str) -> str:
        command = [sys.executable, "-m", "marin_sft.run.command", *words]
        done = subprocess.run(command, env={**self.env, **env}, capture_output=True, text=True, timeout=240)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def processes(self) -> list[ProcessIdentity]:
        return [ProcessIdentity(**process) for process in json.loads(self.record.read_text())["processes"]]


@pytest.fixture
def marin_sft(tmp_path):
    command = Command(tmp_path)
    yield command
    command("cluster", "down")


def listening(pids: set[int]) -> set[str]:
    """The addresses, in hex, on which processes listen."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(link))
            except FileNotFoundError:
                pass
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets}


def test_a_head_of_one_s_own_comes_and_goes(marin_sft, head, tmp_path):
    """`head` is another Ray on this machine."""
    assert "start one on this machine with marin-sft cluster up" in marin_sft("cluster", "status", code=2)
    up = json.loads(marin_sft("cluster", "up", "--num_cpus", "1", "--json"))
    found = listening({process.pid for process in marin_sft.processes()})
    assert found and all(address.endswith("0100007F") for address in found), "on loopback alone, by IPv6, too"
    assert stat.S_IMODE((tmp_path / ".ray/auth_token").stat().st_mode) == 0o600
    private = Path(f"/tmp/marin_sft_{os.getuid()}")
    (found,) = json.loads(Path(up["metrics"]).read_text())
    assert found["targets"], "where Prometheus finds metrics"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700 and any(private.glob("ray/session_*"))

    told = marin_sft("cluster", "up")
    assert f"export RAY_ADDRESS={up['address']}" in told and "its token: cat ~/.ray/auth_token" in told
    assert f"to open it: marin-sft dashboard --address {up['dashboard']}\n" in told
    assert "--num_cpus: a head is up already" in marin_sft("cluster", "up", "--num_cpus", "1", code=2)

    marin_sft("cluster", "doctor", "--prefix", str(tmp_path))
    status = json.loads(marin_sft("cluster", "status", "--json"))
    assert json.loads(marin_sft("jobs", "--json")) == status["jobs"] == [], "questions are no jobs"
    assert status["address"] == up["address"] and status["dashboard"] == up["dashboard"]
    (node,) = status["nodes"]
    assert node["head"] and node["resources"]["CPU"] == [0.0, 1.0] and node["draining"] is None
    assert "CPU 0/1" in marin_sft("cluster", "status")
    wrong = marin_sft("cluster", "status", "--address", up["dashboard"], code=2)
    assert "is a dashboard; expected the address of the head" in wrong and "ray_run --address" in wrong

    script = "import os; print('in a job', os.environ['HF_TOKEN'])"
    ray_run = [sys.executable, "-m", "marin_sft.run.ray_run", "-e", "HF_TOKEN=abc", "--", "python", "-c", script]
    done = subprocess.run(ray_run, env=marin_sft.env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.splitlines()[1:] == ["in a job abc"], done.stdout + done.stderr

    processes = marin_sft.processes()
    ended = json.loads(marin_sft("cluster", "down", "--json"))
    assert ended["address"] == up["address"] and ended["ended"] >= len([p for p in processes if p.start_time])
    assert all(process.is_gone() for process in processes) and not marin_sft.record.exists()
    assert marin_sft("cluster", "down") == "no head of `marin-sft cluster up` is up\n"
    assert "0 jobs" in marin_sft("jobs", **{**head.env, "HOME": str(tmp_path)}), "the other Ray goes on"


LAUNCH = """
    import sys
    from dataclasses import dataclass
    from marin_sft import ExecutorStep, executor_main, this_output_path

    @dataclass(frozen=True)
    class Config:
        output_path: str = this_output_path()

    def wait(config):
        open({go_on!r}).read()

    executor_main(steps=[ExecutorStep("waits", wait, Config())])
"""


def test_the_ray_of_a_launch_takes_no_jobs(marin_sft, tmp_path):
    go_on = tmp_path / "go_on"
    os.mkfifo(go_on)
    (tmp_path / "launch.py").write_text(textwrap.dedent(LAUNCH.format(go_on=str(go_on))))
    ray_run = [sys.executable, "-m", "marin_sft.run.ray_run"]
    command = [sys.executable, "launch.py", "--prefix", "store"]
    ways = [["jobs"], ["logs", "a-me-20260102T101500Z-1a2b"], ["stop", "a-me"]]
    with subprocess.Popen(command, cwd=tmp_path, env=marin_sft.env, stdout=subprocess.PIPE, text=True) as launch:
        try:
            url = next(line for line in launch.stdout if line.startswith("Ray dashboard: ")).split()[-1]
            for words in ways:
                assert "no cluster: start one on this machine" in marin_sft(*words, code=2)
                error = marin_sft(*words, "--address", url, code=2)
                assert f"the Ray at {url} is that of a running script, process {launch.pid} (" in error
                assert "start a cluster on this machine with marin-sft cluster up" in " ".join(error.split())
            for flags, told in (([], "no cluster: "), (["--address", url], "is that of a running script")):
                done = subprocess.run(
                    [*ray_run, *flags, "--", "true"], env=marin_sft.env, capture_output=True, text=True
                )
                assert done.returncode == 2 and told in done.stderr and not done.stdout
            with open(go_on, "w"):
                pass
            launch.stdout.read()
        except BaseException:
            launch.kill()  # it waits
            raise
    assert launch.returncode == 0


def test_down_also_ends_what_a_killed_head_has_left(marin_sft):
    marin_sft("cluster", "up", "--num_cpus", "1")
    processes = marin_sft.processes()
    os.kill(processes[0].pid, signal.SIGKILL)
    marin_sft("cluster", "down")
    assert all(process.is_gone() for process in processes)


def test_a_head_that_does_not_start_says_why(marin_sft):
    error = marin_sft("cluster", "up", "--port", "1", "--dashboard_port", "1", code=1)
    assert error.startswith("error: Ray did not start: ") and "/cluster-" in error
    assert not marin_sft.record.exists()
