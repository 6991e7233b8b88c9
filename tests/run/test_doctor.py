"""`marin-sft cluster doctor` on real nodes with something wrong, and `status` of one that will be taken away."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import marin_sft
from marin_sft.run.bucket import bucket_region, same_region

# Every node sees its own directory as /proc/self/cwd.
NODES = """
    import os, sys
    import ray
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=0)
    class Busy:
        def works(self):
            pass

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "env_vars": {"HF_TOKEN": "abc"}})
    os.chdir(sys.argv[1])
    cluster.add_node(num_cpus=1, num_gpus=1, env_vars={"PYTHONPATH": sys.argv[2]})
    leaving = cluster.add_node(num_cpus=1, env_vars={"HF_TOKEN": "abc"})
    ray.init(cluster.address, logging_level="ERROR")
    busy = Busy.options(scheduling_strategy=NodeAffinitySchedulingStrategy(leaving.node_id, soft=False)).remote()
    ray.get(busy.works.remote())
    GcsClient(address=cluster.address).drain_node(leaving.node_id, 2, "it goes", 0)
    print(cluster.address, flush=True)
    sys.stdin.read()
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[tuple[Path, dict[str, str]]]:
    """Three nodes: a head, one with older code and a GPU that is none, and one that will be taken away."""
    here, elsewhere = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(Path(marin_sft.__file__).parent, elsewhere / "marin_sft")
    (elsewhere / "marin_sft/nearest.py").open("a").write("# of an older commit\n")
    (here / "token").write_text("0123456789abcdef" * 4)
    own = ("RAY_", "MARIN_", "HF_", "WANDB_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    env |= {"RAY_AUTH_TOKEN_PATH": str(here / "token"), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "HOME": str(here)}
    env["RAY_AUTH_MODE"] = "token"  # of nodes, too, as of those that `ray start` starts
    command = [sys.executable, "-c", textwrap.dedent(NODES), str(elsewhere), str(elsewhere)]
    nodes = subprocess.Popen(command, env=env, cwd=here, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert nodes.stdout is not None
    try:
        yield here, {**env, "RAY_ADDRESS": nodes.stdout.readline().strip()}
    finally:
        nodes.communicate("", timeout=60)


def ask(cluster: tuple[Path, dict[str, str]], *words: str) -> subprocess.CompletedProcess:
    here, env = cluster
    command = [sys.executable, "-m", "marin_sft.run.command", "cluster", *words]
    return subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=180)


def test_each_problem_is_named_with_what_to_do(cluster):
    done = ask(cluster, "doctor", "--prefix", "/proc/self/cwd/store", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert all(finding["ok"] == (not finding["advice"]) for finding in found)
    problems = [(finding["check"], finding["text"]) for finding in found if not finding["ok"]]
    by_check = {check: [text for name, text in problems if name == check] for check, _ in problems}
    assert by_check.keys() == {"versions", "credentials", "prefix", "devices"}, problems
    (versions,) = by_check["versions"]
    assert "marin_sft's code" in versions and "Python" not in versions
    (credentials,) = by_check["credentials"]
    assert credentials.startswith("HF_TOKEN is set on other nodes, but not on ")
    assert all("sees another directory" in text for text in by_check["prefix"]) and len(by_check["prefix"]) == 1
    (devices,) = by_check["devices"]
    assert "Ray has GPU 1, but JAX there sees" in devices and "Error" in devices
    (ray,) = [finding["text"] for finding in found if finding["check"] == "ray"]
    assert "2 nodes answering; " in ray and "will be taken away" in ray


def test_what_is_fine_is_said_line_by_line(cluster):
    here, _ = cluster
    done = ask(cluster, "doctor", "--prefix", str(here / "store"))
    assert done.returncode == 1, "the other problems"
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok       prefix") for line in lines)
    assert any(line.startswith("ok       clocks       at most ") for line in lines)
    assert any(line.startswith("problem  devices") for line in lines)
    assert [line for line in lines if line.split()[0] not in ("ok", "problem")] == [], "a finding is one line"
    assert "shared by all 2 nodes" in done.stdout
    assert os.listdir(here / "store") == [], "nothing is left there"


def test_status_shows_what_is_taken_away(cluster):
    done = ask(cluster, "status")
    assert done.returncode == 0, done.stderr
    states = sorted(line.split()[2] for line in done.stdout.splitlines() if "CPU 0/1" in line)
    assert states == ["draining", "head", "worker"]


CLOCKS = """
    import time
    import ray
    from marin_sft.run import doctor, node_probe

    class Ahead(node_probe.NodeProbe):
        def clock(self):
            return time.time() + 30

    ray.init(logging_level="ERROR")
    right, wrong = (ray.remote(num_cpus=0)(probe) for probe in (node_probe.NodeProbe, Ahead))
    probes = {"a": right.remote(), "b": wrong.remote(), "c": right.remote()}
    for found in doctor._clocks(doctor.Cluster(ray, None, probes=probes)):
        print(found.text, "|", found.advice)
"""


def test_a_clock_that_is_wrong_is_named(cluster):
    """The actors that are asked are real ones; one has another time."""
    here, env = cluster
    command = [sys.executable, "-c", textwrap.dedent(CLOCKS)]
    done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("the clock of b is 30.0 s ahead of the others | set it, e.g. with chrony"), (
        done.stderr
    )


def test_regions():
    for bucket, node in (("us-central2", "us-central2"), ("us", "us-central2"), ("eu", "europe-west4")):
        assert same_region(bucket, node)
    assert not same_region("us-central1", "us-central2") and not same_region("us", "europe-west4")
    assert bucket_region("/a/path") is None


def test_the_region_of_a_bucket(gcs):
    assert bucket_region("gs://bucket/x") == "us"
