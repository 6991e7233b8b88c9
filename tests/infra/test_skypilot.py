"""The file for SkyPilot, judged by its schema."""

import pytest
import yaml

from tests.infra.launcher_files import faults, lint, make, schema, with_key

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


def test_its_script_is_sound_and_ends_only_what_it_started():
    before = "#!/bin/bash\nexport SKYPILOT_NODE_IPS=10.0.0.1 SKYPILOT_NODE_RANK=0\n"
    done = lint("shellcheck", text=before + TASK["run"])
    assert done.returncode == 0, done.stdout
    assert "ray stop" not in TASK["run"].replace("`ray stop`", "") and "--dashboard-host=127.0.0.1" in TASK["run"]
