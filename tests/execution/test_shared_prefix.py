"""Nodes of a real Ray that share the prefix, or do not: through /proc/self/cwd each process sees its own directory."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

NODES = """
    import os, sys
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for folder in sys.argv[1:]:
        os.chdir(folder)
        cluster.add_node(num_cpus=1)
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()
"""
LAUNCH = """
    from marin_sft import ExecutorStep, executor_main, this_output_path

    def body(config):
        print("it ran")

    executor_main(steps=[ExecutorStep("s", body, this_output_path())])
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Iterator[tuple[Path, Path, dict[str, str]]]:
    """The working directories of a head and of another node, and the environment of drivers."""
    here, elsewhere = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("elsewhere")
    (here / "token").write_text("0123456789abcdef" * 4)
    (here / "launch.py").write_text(textwrap.dedent(LAUNCH))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MARIN_"))}
    env |= {"RAY_AUTH_TOKEN_PATH": str(here / "token"), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    command = [sys.executable, "-c", textwrap.dedent(NODES), str(elsewhere)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    cluster = subprocess.Popen(command, env=env, cwd=here, text=True, **pipes)
    assert cluster.stdout is not None
    try:
        yield here, elsewhere, {**env, "RAY_ADDRESS": cluster.stdout.readline().strip()}
    finally:
        cluster.communicate("", timeout=60)


def launch(places: tuple[Path, Path, dict[str, str]], prefix: str) -> subprocess.CompletedProcess:
    here, _, env = places
    command = [sys.executable, "launch.py", "--prefix", prefix]
    return subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=120)


def test_a_prefix_of_each_host_s_own_is_refused_before_anything_runs(places):
    here, elsewhere, _ = places
    done = launch(places, "/proc/self/cwd/store")
    assert done.returncode == 2, done.stdout + done.stderr
    said = r"error: prefix /proc/self/cwd/store: host \S+ \(127.0.0.1\) sees another directory there: .*--prefix"
    assert re.fullmatch(said, done.stderr.strip()) and "it ran" not in done.stdout
    assert os.listdir(elsewhere) == [], "nothing is written to a directory that is not the prefix"
    (end,) = here.glob("store/_runs/**/*end*.json")
    assert json.loads(end.read_text())["status"] == "refused"
    assert not list(here.glob("store/s-*/claims")) and not list(here.glob("store/_probe/*"))


def test_a_shared_prefix_is_used(places):
    here, _, _ = places
    done = launch(places, str(here / "shared"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it ran" in done.stdout and not list(here.glob("shared/_probe/*"))
