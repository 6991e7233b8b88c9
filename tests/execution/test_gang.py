"""Steps on several hosts: nodes of one Ray on this machine stand for them. Each script is a driver with its own Ray."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

NODES = """
    import json, os, sys, threading, time
    from pathlib import Path
    import ray
    from ray.cluster_utils import Cluster

    HERE = Path(__file__).parent

    def cluster(nodes, *more, **head):
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **head})
        for arguments in [{"num_cpus": 2}] * nodes + list(more):
            made.add_node(**arguments)
        made.url = ray.init(address=made.address, log_to_driver=False).dashboard_url
        return made

    def held():
        from ray.util.placement_group import placement_group_table
        return [about["name"] for about in placement_group_table().values() if about["state"] != "REMOVED"]
"""

GANGS = (
    NODES
    + """
    from marin_sft import CpuConfig, ExecutorStep, GpuConfig, earlier_attempts, executor_main, preemption, progress
    from marin_sft import step_fn, this_output_path
    from marin_sft.errors import Preempted

    def everywhere(number):
        import numpy as np
        from jax.experimental import multihost_utils
        return multihost_utils.process_allgather(np.array([number])).ravel().tolist()

    @step_fn(kind="joined")
    def joined(config):
        import jax
        rank = jax.process_index()
        title = Path("/proc/self/cmdline").read_text().strip("\\0")
        print(f"rank {rank} of {jax.process_count()} speaks as {title}")
        found = {"ranks": everywhere(rank), "variable": os.environ.get("FOR_RANKS"), "earlier": len(config["earlier"])}
        progress.report(1, 1, "steps", loss=2.5)
        if rank == 0:
            Path(config["out"], "found.json").write_text(json.dumps(found))

    @step_fn(kind="wrong")
    def wrong(config):
        import jax
        if jax.process_index() == 1:
            raise ValueError("on purpose")
        everywhere(0)

    @step_fn(kind="dies_once")
    def dies_once(config):
        import jax
        everywhere(0)
        if jax.process_index() == 1 and not config["earlier"]:
            os.kill(os.getpid(), 9)
        joined(config)

    @step_fn(kind="stops_once")
    def stops_once(config):
        import jax
        everywhere(0)
        if jax.process_index() == 1 and not config["earlier"]:
            os.kill(os.getpid(), 19)
        joined(config)

    @step_fn(kind="drained_once")
    def drained_once(config):
        import jax
        if not config["earlier"]:
            if jax.process_index() == 1:
                (HERE / "drain").write_text(ray.get_runtime_context().get_node_id())
            while not any(everywhere(int(preemption.expected()))):
                time.sleep(0.05)
            raise Preempted("all is kept")
        joined(config)

    def step(fn, **resources):
        config = {"out": this_output_path(), "earlier": earlier_attempts()}
        return ExecutorStep("gangs/" + fn.__name__, fn, config, resources=CpuConfig(hosts=2, **resources))

    def run(*steps, **flags):
        begun = time.monotonic()
        done = executor_main(list(steps), argv=["--prefix", str(HERE / "store"), *flags.get("argv", ())])
        return time.monotonic() - begun
"""
)

FAILURES = """
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    def drain_when_asked():
        while not (HERE / "drain").exists() or not (HERE / "drain").read_text():
            time.sleep(0.1)
        client = GcsClient(address=ray.get_runtime_context().gcs_address)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client.drain_node((HERE / "drain").read_text(), reason, "spot", int(time.time() * 1000) + 600_000)

    def runs_of_ranks(url, step):
        # The state and error of what each rank ran, as Ray shows them.
        from ray.util.state import list_tasks
        while True:  # Ray hears of the end of a task within a second or so
            tasks = [task for task in list_tasks(f"http://{url}", detail=True) if task.name.endswith(".run")]
            runs = {task.name: (task.state, task.error_message) for task in tasks if task.name.startswith(step)}
            if runs and not any(state == "RUNNING" for state, _ in runs.values()):
                return runs
            time.sleep(0.1)

    if __name__ == "__main__":
        nodes = cluster(3, include_dashboard=True, dashboard_port=0)
        try:
            os.environ["FOR_RANKS"] = "not theirs"
            run(step(joined), step(dies_once))
            try:
                run(step(wrong))
            except SystemExit as exit:
                print("exit", exit.code)
            print("RUNS", json.dumps([runs_of_ranks(nodes.url, f"gangs/{name}") for name in ("wrong", "joined")]))
            threading.Thread(target=drain_when_asked, daemon=True).start()
            run(step(drained_once))
            print("held", held())
        finally:
            ray.shutdown()
            nodes.shutdown()
"""

HUNG = """
    if __name__ == "__main__":
        from marin_sft.execution import gang
        nodes = cluster(2)
        try:
            run(step(stops_once))
        finally:
            ray.shutdown()
            nodes.shutdown()
"""

SLICES = (
    NODES
    + """
    from marin_sft import TpuPodConfig
    from marin_sft.execution import reservation
    from marin_sft.execution.reservation import SLICE, WORKER, POD, reserved

    reservation.SLICE_SECONDS = 3.0

    def host(name, worker, kind="v4-16"):
        labels = {SLICE: name, WORKER: str(worker), POD: kind}
        head = {f"TPU-{kind}-head": 1} if worker == 0 else {}
        return {"num_cpus": 2, "resources": {"TPU": 4, **head}, "labels": labels}

    def where(hosts):
        from ray.util.placement_group import placement_group_table
        nodes = {node["NodeID"]: node["Labels"] for node in ray.nodes()}
        found = placement_group_table(hosts[0].group)["bundles_to_node_id"]
        return [(nodes[found[h.bundle]][SLICE], nodes[found[h.bundle]][WORKER]) for h in hosts]

    if __name__ == "__main__":
        pod = TpuPodConfig(tpu_type="v4-16")
        # In a pool of three slices, one lacks a host. Hosts join in no particular order.
        there = [host("b", 1), host("lame", 0), host("a", 1), host("b", 0), host("a", 0)]
        nodes = cluster(0, *there)
        class Told(Exception):
            pass
        def told(text):
            raise Told(text)
        try:
            found = {}
            try:
                with reserved(TpuPodConfig(tpu_type="v4-128"), "none", told):
                    pass
            except Told as said:
                found["of a type that there is not"] = str(said)
            with reserved(pod, "one", print) as hosts:
                found["one"] = where(hosts)
                said = []
                queued = threading.Thread(target=lambda: found.update(second=second(said)))
                def second(said):
                    with reserved(TpuPodConfig(tpu_type="v4-16", slice_count=2), "two", said.append) as both:
                        return where(both), [dict(h.variables) for h in both]
                queued.start()
                while not any("lame lacks" in text for text in said):
                    time.sleep(0.1)
                found["while one is held"] = [any(name.startswith("one/") for name in held()), "second" in found]
            queued.join(120)
            found["held"], found["said"] = held(), sorted(set(said))
            print("FOUND", json.dumps(found))
        finally:
            ray.shutdown()
            nodes.shutdown()
"""
)


def script(tmp_path: Path, text: str, timeout: float = 300) -> str:
    """The output of a driver. Its Ray ends with it."""
    path = tmp_path / "launch.py"
    path.write_text(textwrap.dedent(text))
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "JAX_PLATFORMS": "cpu"}
    done = subprocess.Popen(
        [sys.executable, str(path)],
        env={**os.environ, **loopback},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = done.communicate(timeout=timeout)
    finally:
        if done.poll() is None:
            os.killpg(done.pid, signal.SIGKILL)
            done.wait()
    assert done.returncode == 0, output
    return output


def found_in(tmp_path: Path, name: str, attempt: int) -> dict:
    (path,) = tmp_path.glob(f"store/gangs/{name}-*/{attempt}/found.json")
    return json.loads(path.read_text())


def log_of(tmp_path: Path, name: str, attempt: int, rank: str = "") -> str:
    (path,) = tmp_path.glob(f"store/gangs/{name}-*/{attempt}/.log{rank}")
    return path.read_text()


def test_all_ranks_or_none(tmp_path):
    output = script(tmp_path, GANGS + FAILURES)
    assert found_in(tmp_path, "joined", 1) == {"ranks": [0, 1], "variable": None, "earlier": 0}
    assert "rank 0 of 2 speaks" in log_of(tmp_path, "joined", 1)  # what rank 0 prints is the step's output
    assert "rank 1 of 2 speaks as ray::gangs/joined[1]\n" in log_of(tmp_path, "joined", 1, "-1")

    assert found_in(tmp_path, "dies_once", 2)["earlier"] == 1
    assert "gangs/dies_once: the process of rank 1 on" in output

    assert "exit 1" in output and "gangs/wrong failed: rank 1 on" in output and "ValueError: on purpose" in output
    assert not list(tmp_path.glob("store/gangs/wrong-*/2")), "a mistake of the user's code is not retried"
    assert 'raise ValueError("on purpose")' in log_of(tmp_path, "wrong", 1)  # the traceback, though rank 0 has none

    wrong, joined = json.loads(re.search(r"^RUNS (.*)", output, re.MULTILINE).group(1))
    assert {state for state, _ in joined.values()} == {"FINISHED"}
    state, error = wrong["gangs/wrong[1].run"]
    assert state == "FAILED" and "rank 1: ValueError: on purpose\nat " in error, "so Ray shows it in red"

    assert found_in(tmp_path, "drained_once", 2)["ranks"] == [0, 1]
    assert "gangs/drained_once: all is kept; a new attempt begins" in output
    assert "held []" in output


@pytest.mark.torture
def test_a_hung_rank_is_lost_and_the_stacks_are_kept(tmp_path):
    script(tmp_path, GANGS + HUNG)
    assert found_in(tmp_path, "stops_once", 2)["ranks"] == [0, 1]
    log = log_of(tmp_path, "stops_once", 1)
    assert "--- rank 0 on" in log and "in everywhere" in log


def test_slices(tmp_path):
    """Hosts in the order of their workers, whole slices only, and nobody shares one."""
    output = script(tmp_path, SLICES)
    found = json.loads(next(line for line in output.splitlines() if line.startswith("FOUND")).removeprefix("FOUND"))
    (name, _), _ = found["one"]
    assert name in ("a", "b") and found["one"] == [[name, "0"], [name, "1"]]
    assert found["while one is held"] == [True, False]
    both, variables = found["second"]
    assert sorted({name for name, _ in both}) == ["a", "b"] and [worker for _, worker in both] == ["0", "1"] * 2
    assert [v["MEGASCALE_SLICE_ID"] for v in variables] == ["0", "0", "1", "1"]
    assert {v["MEGASCALE_NUM_SLICES"] for v in variables} == {"2"}
    assert found["held"] == []
    assert any("lame lacks some of its 2 hosts" in text for text in found["said"])
    assert not any("this cluster has none" in text for text in found["said"])
    assert found["of a type that there is not"].startswith(
        "waits for a free slice of type v4-128; this cluster has none: it needs 16 nodes, each with CPU 1, TPU 4, and "
        "the most that a node has of each is CPU 2, TPU 4. "
    )
