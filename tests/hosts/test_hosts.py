"""What works on several hosts with steps of one host: they share a prefix, and a host may be lost."""

import json
import textwrap

import pytest

from tests.hosts.hosts import impossible, wait_for

pytestmark = [pytest.mark.torture, pytest.mark.skipif(bool(reason := impossible()), reason=str(reason))]

SCRIPT = """
    import socket, sys, time
    from pathlib import Path
    from marin_sft import CpuConfig, ExecutorStep, executor_main, step_fn, this_output_path

    @step_fn(kind="link")
    def link(config):
        before = Path(config["before"], "hosts.txt").read_text() if config["before"] else ""
        Path(config["out"], "hosts.txt").write_text(f"{before}{socket.gethostname()} ")
        while Path(f"hold.{config['number']}").exists():
            time.sleep(0.1)

    first = ExecutorStep("first", link, {"before": None, "number": 1, "out": this_output_path()})
    executor_main(steps=[ExecutorStep("second", link, {"before": first, "number": 2, "out": this_output_path()})])
"""


def launch(ray, tmp_path, prefix=None):
    script = SCRIPT.replace('f"hold', f'f"{tmp_path}/hold')
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    return ray.launch(str(tmp_path / "script.py"), "--prefix", str(prefix or tmp_path / "store"))


def test_steps_of_several_hosts_share_a_prefix(ray, tmp_path):
    running = launch(ray, tmp_path)
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 0, output
    (text,) = tmp_path.glob("store/second-*/latest/hosts.txt")
    ran_on = text.read_text().split()
    assert len(ran_on) == 2 and {*ran_on} <= {host.name for host in ray.workers}


def test_a_step_whose_host_is_killed_runs_again_on_another(ray, tmp_path):
    hold = tmp_path / "hold.2"
    hold.touch()
    running = launch(ray, tmp_path)
    (text,) = wait_for(lambda: [*tmp_path.glob("store/second-*/1/hosts.txt")])
    lost = text.read_text().split()[1]
    (host,) = (host for host in ray.workers if host.name == lost)
    host.kill()
    hold.unlink()
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 0, output
    (text,) = tmp_path.glob("store/second-*/latest/hosts.txt")
    assert text.parent.resolve().name == "2" and text.read_text().split()[1] != lost
    (claim,) = tmp_path.glob("store/second-*/claims/000002.json")
    assert json.loads(claim.read_text())["owner"]["host"] != lost
    ray.replace(host)


def test_a_prefix_that_hosts_do_not_share_is_refused_before_anything_runs(ray, tmp_path):
    running = launch(ray, tmp_path, prefix="/tmp/own/store")
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 2, output
    assert any(f"host {host.name} ({host.address}) sees another directory" in output for host in ray.workers), output
    assert ray.head.run("find", "/tmp/own/store", "-path", "*/claims/*") == ""
