"""Notices of a metadata server on loopback reach a real Ray."""

import json
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from marin_sft.run.preemption_poller import Notice, Watch
from tests.run.metadata_server import metadata_server


@pytest.fixture
def server():
    with metadata_server() as running:
        yield running


@pytest.mark.parametrize(
    ("key", "value", "notice"),
    [
        ("preempted", "TRUE", Notice("preempted", "TRUE", 30)),
        (
            "maintenance-event",
            "TERMINATE_ON_HOST_MAINTENANCE",
            Notice("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", 60),
        ),
        ("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE", None),  # takes nothing away
    ],
)
def test_a_notice_is_found_when_it_comes(server, key, value, notice):
    watched = Watch(server.url, key)
    assert watched.next() is None
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(watched.next)
        server.wait_for_held(key)
        assert not answer.done()
        server.set(key, value)
        assert answer.result(timeout=30) == notice


def test_a_notice_from_before_the_poller_counts(server):
    server.set("preempted", "TRUE")
    assert Watch(server.url, "preempted").next() == Notice("preempted", "TRUE", 30)


def test_a_server_that_fails_is_asked_again(server, capsys):
    server.failures = 1
    key = Watch(server.url, "preempted", pause=0)
    assert key.next() is None and "503" in capsys.readouterr().err
    assert key.next() is None and not capsys.readouterr().err
    server.set("preempted", "TRUE")
    assert key.next() == Notice("preempted", "TRUE", 30)


def test_a_held_request_that_ends_without_a_change_is_no_notice(server):
    key = Watch(server.url, "preempted", hold=0)
    assert key.next() is None and key.next() is None
    assert server.asked["preempted"][1] == {"timeout_sec": "0", "wait_for_change": "true", "last_etag": "1"}


# A cluster whose worker node runs an actor. At a line of input it prints the draining nodes with their deadlines, ends
# the actor, and prints how the node died.
CLUSTER = """
    import json, sys, time
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 0})
    worker = cluster.add_node(num_cpus=1).node_id

    @ray.remote(num_cpus=1)
    class Busy:
        def where(self):
            return ray.get_runtime_context().get_node_id()

    busy = Busy.remote()
    assert ray.get(busy.where.remote()) == worker
    print(json.dumps({"address": cluster.address, "worker": worker}), flush=True)
    sys.stdin.readline()
    end = time.monotonic() + 30  # the node tells the head by itself that it drains
    while worker not in (draining := ray._private.state.state.get_draining_nodes()) and time.monotonic() < end:
        time.sleep(0.1)
    print(json.dumps(draining), flush=True)
    del busy
    while next(node for node in ray.nodes() if node["NodeID"] == worker)["Alive"]:
        time.sleep(0.1)
    died = next(node for node in ray.nodes() if node["NodeID"] == worker)
    print(json.dumps([died["DeathReason"], died["DeathReasonMessage"]]), flush=True)
    ray.shutdown()
    cluster.shutdown()
"""


def test_the_host_is_drained_and_its_node_ends_when_its_work_is_done(server, tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MARIN_"))}
    env |= {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    cluster = subprocess.Popen([sys.executable, "-c", textwrap.dedent(CLUSTER)], **pipes)
    started = [cluster]

    def poller():
        command = [sys.executable, "-m", "marin_sft.run.preemption_poller", "--address", facts["address"]]
        command += ["--metadata", server.url, "--lock", str(tmp_path / "locks" / "poller")]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, **pipes))
        return started[-1]

    try:
        facts = json.loads(cluster.stdout.readline())
        first = poller()
        assert first.stdout.readline().startswith("watching preempted, maintenance-event")
        second = poller()
        assert second.wait(timeout=60) == 0 and "already runs" in second.stderr.read(), "one poller per host"

        before = time.time()
        server.set("preempted", "TRUE")
        told = first.stdout.readline()
        assert "preempted=TRUE" in told and facts["worker"] in told
        cluster.stdin.write("\n")
        cluster.stdin.flush()
        draining = json.loads(cluster.stdout.readline())
        assert before + 25 < draining[facts["worker"]] / 1000 < time.time() + 30, "gone in 30 s"

        reason, message = json.loads(cluster.stdout.readline())
        assert reason == 3 and "preempted=TRUE" in message, "drained, not failed"
        assert cluster.wait(timeout=60) == 0
    finally:
        for process in started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    pipe.close()
