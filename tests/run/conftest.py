import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

# Ends the head, which ends all that it started, when this process closes its end of the pipe, or is gone.
KEEPER = "import subprocess, sys; ray = subprocess.Popen(sys.argv[1:]); sys.stdin.read(); ray.terminate(); ray.wait()"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[SimpleNamespace]:
    """A Ray head of its own on loopback with a dashboard: `url`, `env` to reach it with, `folder` of all its logs."""
    folder = Path(tempfile.mkdtemp(prefix="rr", dir="/tmp"))  # short: sockets lie in it
    (folder / "token").write_text("0123456789abcdef" * 4)
    (folder / "token").chmod(0o600)
    dashboard = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MARIN_"))}
    env |= {
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    options = {
        "node-ip-address": "127.0.0.1",
        "port": free_port(),
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": free_port(),
        "ray-client-server-port": free_port(),
        "num-cpus": 2,
        "temp-dir": folder / "ray",
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with open(folder / "head.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", KEEPER, *command],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "Ray runtime started" in line:
                break
        else:
            pytest.fail((folder / "head.log").read_text())
        yield SimpleNamespace(
            url=f"http://127.0.0.1:{dashboard}",
            gcs=f"127.0.0.1:{options['port']}",
            env={**env, "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"},
            folder=folder,
        )
    finally:
        process.communicate("", timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
