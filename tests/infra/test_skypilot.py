"""The file for SkyPilot, judged by its schema and, where hosts can be made, by running it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.hosts.hosts import Hosts, impossible, wait_for
from tests.infra.launcher_files import faults, lint, make, schema, unknown_to_ray_start, with_key

TASK = yaml.safe_load(make.examples()["skypilot/gpu.yaml"])
SCHEMA = schema("skypilot_task_0.14.1")


def test_skypilot_knows_every_key():
    assert faults(TASK, SCHEMA) == []
    assert faults(make.SkyTask("i", "gs://b/p", "c", gpus="A100:4", hosts=8, spot=True).file(), SCHEMA) == []


@pytest.mark.parametrize("path", [("num_node",), ("resources", "accelerator"), ("resources", "usespot")])
def test_a_wrong_key_is_refused(path):
    assert any(path[-1] in fault for fault in faults(with_key(TASK, path, 1), SCHEMA))


def test_it_does_not_start_without_a_token():
    assert TASK["secrets"] == {"RAY_AUTH_TOKEN": None}, "a secret without a value must be given: --secret NAME"
    assert TASK["envs"]["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN" not in TASK["envs"]


def test_ray_start_has_its_options():
    starts = re.findall(r"ray start (.*?) &$", TASK["run"].replace("\\\n", ""), re.MULTILINE)
    assert len(starts) == 2 and not unknown_to_ray_start(" ".join(starts))


def test_its_script_is_sound_and_ends_only_what_it_started():
    before = "#!/bin/bash\nexport SKYPILOT_NODE_IPS=10.0.0.1 SKYPILOT_NODE_RANK=0\n"
    done = lint("shellcheck", text=before + TASK["run"])
    assert done.returncode == 0, done.stdout
    assert "ray stop" not in TASK["run"].replace("`ray stop`", "") and "--dashboard-host=127.0.0.1" in TASK["run"]


COMMAND = """python -c '
import sys, time, ray
ray.init(logging_level="ERROR")
while len(ray.nodes()) < 2:
    time.sleep(0.2)
sys.exit(3)
'"""
reason = impossible()


@pytest.mark.torture
@pytest.mark.skipif(bool(reason), reason=str(reason))
def test_it_runs_on_two_hosts_and_ends_on_both(tmp_path):
    """As SkyPilot does it: the same script on each host, which is told its number and the addresses of all."""
    task = make.SkyTask("i", str(tmp_path / "store"), COMMAND).file()
    (tmp_path / "run.sh").write_text(task["run"])
    with Hosts(2, tmp_path) as hosts:
        both = [hosts[0], hosts[1]]
        env = {
            **task["envs"],
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
            "SKYPILOT_NODE_IPS": "\n".join(host.address for host in both),
        }
        logs = [tmp_path / "rank0.log", tmp_path / "rank1.log"]
        ranks = []
        for rank, host in enumerate(both):
            with logs[rank].open("w") as log:
                own = {**env, "SKYPILOT_NODE_RANK": str(rank)}
                options = {"stdout": log, "stderr": subprocess.STDOUT}
                ranks.append(host.start("bash", str(tmp_path / "run.sh"), env=own, **options))
        wait_for(lambda: all(rank.poll() is not None for rank in ranks), 240, f"the end of {logs}")
        assert [rank.returncode for rank in ranks] == [3, 0], "\n".join(log.read_text() for log in logs)
        for host in both:
            assert "raylet" not in host.run("ps", "-eo", "args")
