"""What fails in one process of a step on several hosts, and is not the fault of the hosts: said once, not retried."""

import json
import textwrap
import time

import pytest

from tests.hosts.hosts import impossible, wait_for

pytestmark = [pytest.mark.torture, pytest.mark.skipif(bool(reason := impossible()), reason=str(reason))]

SCRIPT = """
    import socket, sys, threading
    from pathlib import Path
    from marin_sft import CpuConfig, ExecutorStep, executor_main, step_fn, this_output_path

    @step_fn(kind="together")
    def together(config):
        import jax
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("begun")
        rank = jax.process_index()
        Path(config["out"], f"host.{rank}").write_text(socket.gethostname())
        if rank == 1:
            if config["wrong"]:
                raise ValueError("only here")
            threading.Event().wait()
        multihost_utils.sync_global_devices("never")

    config = {"out": this_output_path(), "wrong": sys.argv.pop() == "wrong"}
    executor_main(steps=[ExecutorStep("together", together, config, resources=CpuConfig(hosts=2))])
"""


def launch(ray, tmp_path, how):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    return ray.launch(str(tmp_path / "script.py"), "--prefix", str(tmp_path / "store"), how)


def begun(tmp_path):
    """The host of rank 1, once the ranks have met."""
    (path,) = wait_for(lambda: [*tmp_path.glob("store/together-*/1/host.1")])
    return wait_for(path.read_text)


def check_not_retried(ray, tmp_path):
    assert [path.name for path in tmp_path.glob("store/together-*/claims/*.json")] == ["000001.json"]
    assert ray.placement_groups() == []


def test_an_error_in_one_rank_alone(ray, tmp_path):
    running = launch(ray, tmp_path, "wrong")
    begun(tmp_path)
    since = time.monotonic()
    output, _ = running.communicate(timeout=120)
    print(f"\nthe launch ends {time.monotonic() - since:.1f} s after an error in rank 1")
    assert time.monotonic() - since < 15
    assert running.returncode == 1 and "ValueError: only here" in output, output
    (path,) = tmp_path.glob("store/together-*/1/.failure.json")
    failure = json.loads(path.read_text())
    assert "rank 1" in failure["error"] and 'raise ValueError("only here")' in failure["traceback"]
    check_not_retried(ray, tmp_path)


def test_one_rank_is_killed_for_memory(ray, tmp_path):
    running = launch(ray, tmp_path, "right")
    name = begun(tmp_path)
    (host,) = (host for host in ray.workers if host.name == name)
    ray.use_memory(host, 0.99)
    output, _ = running.communicate(timeout=120)
    ray.use_memory(host, 0.1)
    assert running.returncode == 1 and "out of memory" in output.lower(), output
    check_not_retried(ray, tmp_path)
