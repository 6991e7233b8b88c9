"""The files for KubeRay, judged by its resource definition and by the autoscaler that Ray runs on Kubernetes."""

import logging
import re

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from marin_sft.machines import slice_of
from tests.infra.launcher_files import CPU_DEMANDS, faults, fits_a_cpu_host, launched, make, schema, with_key

EXAMPLES = {name: yaml.safe_load(text) for name, text in make.examples().items() if name.startswith("kuberay/")}
RAYJOB = schema("kuberay_rayjob_1.6.2")
CLUSTER = ("spec", "rayClusterSpec")
GROUP = (*CLUSTER, "workerGroupSpecs", 0)
TYPES = [tpu_type for kind in make.KINDS for tpu_type in make.sizes_of(kind)]


def everything():
    """A job that may start every kind of host."""
    return make.RayJob("i", "gs://b/p", "c", tpu_types=tuple(TYPES), gpus=8, max_slices=2, spot=True).file()


def prepared(job):
    """The autoscaler's view of a job's cluster."""
    logging.disable(logging.ERROR)
    try:
        cluster = {"metadata": {"name": "x", "namespace": "default"}, "spec": job["spec"]["rayClusterSpec"]}
        return _derive_autoscaling_config_from_ray_cr(cluster)
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("content", [*EXAMPLES.values(), everything()], ids=[*EXAMPLES, "everything"])
def test_kuberay_knows_every_key(content):
    assert faults(content, RAYJOB) == []


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "entryPoint"),
        (*CLUSTER, "rayVersionn"),
        (*CLUSTER, "authOptions", "token"),
        (*GROUP, "numOfHost"),
        (*GROUP, "template", "spec", "nodeselector"),
        (*GROUP, "template", "spec", "containers", 0, "envfrom"),
    ],
)
def test_a_wrong_key_is_refused(path):
    found = faults(with_key(EXAMPLES["kuberay/tpu.yaml"], path, 2), RAYJOB)
    assert len(found) == 1 and repr(path[-1]) in found[0]


def test_a_wrong_value_is_refused():
    for path, value in [((*GROUP, "numOfHosts"), "2"), ((*CLUSTER, "authOptions", "mode"), "off")]:
        assert faults(with_key(EXAMPLES["kuberay/tpu.yaml"], path, value), RAYJOB)


@pytest.mark.parametrize("tpu_type", TYPES)
def test_the_heads_request_starts_exactly_that_type(tpu_type):
    config = prepared(everything())
    assert launched(config, [{f"TPU-{tpu_type}-head": 1.0}]) == {f"tpu-{tpu_type}": 1}
    assert launched(config, [{f"TPU-{tpu_type}-head": 1.0, "CPU": 1}]) == {f"tpu-{tpu_type}": 1}
    machines = slice_of(tpu_type)
    group = next(g for g in everything()["spec"]["rayClusterSpec"]["workerGroupSpecs"] if tpu_type in g["groupName"])
    assert group["numOfHosts"] == machines.hosts
    assert config["available_node_types"][f"tpu-{tpu_type}"]["resources"]["TPU"] == machines.chips


@pytest.mark.parametrize("demands", CPU_DEMANDS, ids=lambda demands: f"{len(demands)} of {demands[0]}")
def test_requests_for_cpus_start_no_accelerator(demands):
    assert set(launched(prepared(everything()), demands)) == ({"cpu"} if fits_a_cpu_host(demands[0]) else set())


def test_a_request_for_gpus_starts_hosts_with_gpus():
    assert launched(prepared(EXAMPLES["kuberay/gpu.yaml"]), [{"GPU": 8.0, "CPU": 1.0}] * 2) == {"gpu": 2}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_pod_that_is_ended_has_time_for_a_checkpoint(name):
    """SIGTERM drains the node for as long as the variable says; then Kubernetes waits a little longer."""
    cluster = EXAMPLES[name]["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        variables = {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}
        drain = int(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert 120 <= drain < pod["terminationGracePeriodSeconds"]
        assert variables["RAY_health_check_period_ms"] == "1000"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_token_is_made_by_kuberay_and_secrets_come_from_a_secret(name):
    cluster = EXAMPLES[name]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        container = group["template"]["spec"]["containers"][0]
        assert container["envFrom"] == [{"secretRef": {"name": "marin-sft", "optional": True}}]
        assert not [variable for variable in container["env"] if re.search("AUTH|TOKEN|KEY", variable["name"])]
