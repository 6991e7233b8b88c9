"""The files for Ray's cluster launcher on Google Cloud, judged by Ray's validators and autoscaler, and Google's API."""

import contextlib
import copy
import functools
import json
import logging
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import google_auth_httplib2
import googleapiclient.discovery
import googleapiclient.discovery_cache
import jsonschema
import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from ray.autoscaler._private.gcp.config import get_node_type
from ray.autoscaler._private.gcp.node import GCPTPU, GCPCompute, GCPNodeType
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2 import scheduler as autoscaler_v2
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import LabelSelectorOperator
from ray.core.generated.instance_manager_pb2 import Instance, NodeKind

from marin_sft.machines import slice_of
from marin_sft.run import preemption_poller
from tests.hosts.hosts import Hosts, impossible, wait_for
from tests.infra.launcher_files import (
    CPU_DEMANDS,
    ROOT,
    faults,
    fits_a_cpu_host,
    launched,
    lint,
    make,
    unknown_to_ray_start,
    with_key,
)

EXAMPLES = {name: yaml.safe_load(text) for name, text in make.examples().items() if name.startswith("gcp/")}
SPOT = {name: content for name, content in EXAMPLES.items() if "spot" in name}
TPU_TYPES = [(name, key) for name, content in SPOT.items() for key in content["available_node_types"] if "tpu-" in key]


@pytest.fixture(autouse=True)
def no_warnings_of_pods():
    """Ray warns of each slice that it has several hosts."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def prepared(content):
    """The autoscaler's view of a file."""
    config = prepare_config(copy.deepcopy(content))
    validate_config(config)
    return GCPNodeProvider.fillout_available_node_types_resources(config)


@pytest.mark.parametrize("name", EXAMPLES)
def test_ray_accepts_the_file_and_knows_its_machines(name):
    for key, node_type in prepared(EXAMPLES[name])["available_node_types"].items():
        assert get_node_type(node_type["node_config"]) == (GCPNodeType.TPU if "tpu-" in key else GCPNodeType.COMPUTE)


@pytest.mark.parametrize(
    "path", [("docker", "imagee"), ("available_node_types", "cpu", "max_worker"), ("max_worker",), ("auth", "user")]
)
def test_ray_refuses_a_wrong_key(path):
    changed = with_key(EXAMPLES["gcp/v4-spot.yaml"], path, 1)
    with pytest.raises(jsonschema.ValidationError, match=path[-1]):
        prepared(changed)


@pytest.mark.parametrize(("name", "key"), TPU_TYPES, ids=[key for _, key in TPU_TYPES])
def test_the_heads_request_starts_exactly_that_type(name, key):
    tpu_type = key.removeprefix("tpu-")
    config = prepared(EXAMPLES[name])
    for cpus in (0, 1, 16):
        demand = {f"TPU-{tpu_type}-head": 1.0, **({"CPU": cpus} if cpus else {})}
        assert launched(config, [demand]) == {key: 1}
        assert launched(config, [demand] * 2) == {key: 1}, "no more than --max-slices"


def test_requests_for_hosts_of_slices_start_no_slice():
    """A gang makes them when it has a slice. If a host is lost or busy, they wait, which Ray's autoscaler sees."""
    config = prepared(EXAMPLES["gcp/v4-spot.yaml"])
    assert launched(config, [{"TPU": 4.0, "CPU": 1.0}] * 16) == {"tpu-v4-8": 1}, "which is one host"
    single = {"CPU": 1.0, "TPU": 4.0, "TPU-v4-8-head": 1.0}  # what a step on one host requests
    assert launched(config, [single]) == {"tpu-v4-8": 1}
    for key, node_type in config["available_node_types"].items():
        chips = slice_of(key.removeprefix("tpu-")).chips if key == "tpu-v4-8" else None
        assert node_type["resources"].get("TPU") == chips


@pytest.mark.parametrize("name", SPOT)
@pytest.mark.parametrize("demands", CPU_DEMANDS, ids=lambda demands: f"{len(demands)} of {demands[0]}")
def test_requests_for_cpus_start_no_slice(name, demands):
    assert set(launched(prepared(SPOT[name]), demands)) == ({"cpu"} if fits_a_cpu_host(demands[0]) else set())


@pytest.mark.parametrize("changed", ["no cpu type", "fewer cpu hosts", "more cores of slices", "fewer cores of slices"])
def test_each_of_the_rules_that_keep_slices_from_starting_is_needed(changed):
    """The test above can fail: without any one of the rules, requests for CPUs start a slice."""
    config = prepared(EXAMPLES["gcp/v4-spot.yaml"])
    types = config["available_node_types"]
    if changed == "no cpu type":
        del types["cpu"]
    elif changed == "fewer cpu hosts":
        types["cpu"]["max_workers"] = 1
    else:
        for key in types:
            if "tpu-" in key:
                types[key]["resources"]["CPU"] = {"more": 112, "fewer": 8}[changed.split()[0]]
    assert any("tpu-" in key for demands in CPU_DEMANDS for key in launched(config, demands))


def second_version(request, instances=()):
    """What version 2 of the autoscaler would do for one request: the types it starts, and how many hosts it ends."""
    types = {
        key: NodeTypeConfig(key, 0, node_type["max_workers"] + (key == "head"), resources=node_type["resources"])
        for key, node_type in prepared(EXAMPLES["gcp/v4-spot.yaml"])["available_node_types"].items()
    }
    asked = {"resource_requests": ResourceRequestUtil.group_by_count(request), "current_instances": list(instances)}
    reply = autoscaler_v2.ResourceDemandScheduler().schedule(
        autoscaler_v2.SchedulingRequest(True, types, max_num_nodes=65, idle_timeout_s=900, **asked)
    )
    return [launch.instance_type for launch in reply.to_launch], len(reply.to_terminate)


def test_why_the_files_use_the_first_version_of_the_autoscaler():
    """If this fails, Ray's second version can do more than it could, and `_start_head` need not choose."""
    head = {"TPU-v4-128-head": 1}
    assert second_version([ResourceRequestUtil.make(head)]) == (["tpu-v4-128"], 0)
    first_host = [("ray.io/tpu-worker-id", LabelSelectorOperator.LABEL_OPERATOR_IN, ["0"])]
    reservation = ResourceRequestUtil.make(head, label_selectors=[first_host])
    assert second_version([reservation]) == ([], 0), "a reservation as gangs make it starts nothing"

    busy = {"available_resources": {}, "labels": {}, "dynamic_labels": {}, "idle_duration_ms": 0}
    host = SimpleNamespace(total_resources={"CPU": 16.0, "TPU": 4.0}, **busy)
    states = {"instance_type": "tpu-v4-128", "status": Instance.RAY_RUNNING, "node_kind": NodeKind.WORKER}
    slice_ = [AutoscalerInstance(im_instance=Instance(instance_id=str(i), **states), ray_node=host) for i in range(16)]
    assert second_version([], slice_) == ([], 15), "it takes the hosts of one busy slice for too many nodes"


@contextlib.contextmanager
def google_api():
    """Google's API as a server on loopback that accepts everything. Yields its address and the bodies that it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"name": "operation"}')

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@functools.cache
def description(api, version):
    """Google's own description of an API, as its client ships it."""
    return json.loads(googleapiclient.discovery_cache.get_static_doc(api, version))


@functools.cache
def schema_of(api, version, name):
    """That of one kind of object, as JSON Schema: unknown keys are refused."""
    schemas = description(api, version)["schemas"]

    def convert(part):
        if "$ref" in part:
            return {"$ref": f"#/$defs/{part['$ref']}"}
        kept = {key: value for key, value in part.items() if key in ("type", "enum") and value != "any"}
        for key in ("items", "additionalProperties"):
            if key in part:
                kept[key] = convert(part[key])
        if "properties" in part:
            kept["properties"] = {key: convert(value) for key, value in part["properties"].items()}
            kept.setdefault("additionalProperties", False)
        if part.get("format") == "int64" and part["type"] == "string":
            kept["type"] = ["string", "integer"]
        return kept

    return {"$ref": f"#/$defs/{name}", "$defs": {key: convert(value) for key, value in schemas.items()}}


@pytest.fixture(scope="module")
def google():
    """What Ray would call to create hosts, as it makes it, on an API on loopback; and what that got."""
    with google_api() as (address, got):

        def resource(kind, api, version):
            at = {"rootUrl": address, "mtlsRootUrl": address}
            http = google_auth_httplib2.AuthorizedHttp(AnonymousCredentials())
            client = googleapiclient.discovery.build_from_document(description(api, version) | at, http=http)
            return kind(client, "p", "us-central2-b", "x")

        yield {"tpu": resource(GCPTPU, "tpu", "v2alpha1"), "compute": resource(GCPCompute, "compute", "v1")}, got


@pytest.mark.parametrize("name", EXAMPLES)
def test_google_knows_every_key_of_what_ray_sends(name, google):
    resources, got = google
    schemas = {"tpu": schema_of("tpu", "v2alpha1", "Node"), "compute": schema_of("compute", "v1", "Instance")}
    for key, node_type in EXAMPLES[name]["available_node_types"].items():
        kind = "tpu" if "tpu-" in key else "compute"
        got.clear()
        # Two at once, since the autoscaler does that, from the same settings.
        labels = {"ray-node-name": "ray-x-worker"}
        resources[kind].create_instances(node_type["node_config"], labels, 2, wait_for_operation=False)
        assert len(got) == 2
        for body in got:
            assert faults(body, schemas[kind]) == []
            accounts = body.get("serviceAccounts") or [body.get("serviceAccount")]
            assert key == "head" or accounts[0]["email"] == "marin-sft@<PROJECT>.iam.gserviceaccount.com"


@pytest.mark.parametrize("key", ["tpu-v4-8", "cpu"])
def test_google_refuses_a_wrong_key_that_ray_takes(key):
    node_config = EXAMPLES["gcp/v4-spot.yaml"]["available_node_types"][key]["node_config"]
    schema = schema_of("tpu", "v2alpha1", "Node") if key != "cpu" else schema_of("compute", "v1", "Instance")
    assert get_node_type(node_config | {"runtimeVersionn": "x"})
    assert any("runtimeVersionn" in fault for fault in faults(node_config | {"runtimeVersionn": "x"}, schema))


@pytest.mark.parametrize(
    ("name", "key", "scheduling"),
    [
        ("gcp/v4-spot.yaml", "tpu-v4-8", {"spot": True}),
        ("gcp/v4-reserved.yaml", "tpu-v4-8", {"reserved": True}),
        ("gcp/v4-reserved.yaml", "cpu", {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}),
        ("on-demand", "tpu-v4-8", None),
        ("on-demand", "cpu", None),
        ("on-demand", "head", None),
        ("gcp/v4-spot.yaml", "head", None),
    ],
)
def test_how_hosts_are_paid_for(name, key, scheduling):
    on_demand = make.GcpCluster("x", "p", "z", "b", "i", ("v4-8",), capacity="on-demand").file()
    node_config = {**EXAMPLES, "on-demand": on_demand}[name]["available_node_types"][key]["node_config"]
    assert node_config.get("schedulingConfig", node_config.get("scheduling")) == scheduling


def test_every_node_has_the_same_settings_and_workers_watch_for_preemption():
    content = EXAMPLES["gcp/v4-spot.yaml"]
    options = content["docker"]["run_options"]
    for setting in ("RAY_AUTH_MODE=token", "RAY_health_check_period_ms=1000", "RAY_grpc_client_keepalive_time_ms=5000"):
        assert f"--env {setting}" in options
    assert content["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    head, worker = content["head_start_ray_commands"][-1], content["worker_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head and "RAY_enable_autoscaler_v2=0 ray start" in head
    assert "preemption_poller" in worker and "preemption_poller" not in head
    for command in (head, worker):
        started = command.split("ray start")[1]
        assert not unknown_to_ray_start(started)
        assert unknown_to_ray_start(started + " --dashboard-hosts=x") == {"--dashboard-hosts"}
    (command,) = re.findall(r"python -m marin_sft\.run\.preemption_poller (.*?) >", worker)
    with pytest.raises(SystemExit) as ended:  # its flags are known
        preemption_poller.main([*command.split(), "--help"])
    assert ended.value.code == 0


def test_secrets_come_from_a_file_and_are_not_in_the_yaml():
    content = make.GcpCluster("x", "p", "z", "b", "i", ("v4-8",), secrets="~/mine.env").file()
    assert content["file_mounts"]["~/.marin_sft/secrets.env"] == "~/mine.env"
    for commands in (content["head_start_ray_commands"], content["worker_start_ray_commands"]):
        before, start = commands[-1].split("ray start")
        assert "set -a; . ~/.marin_sft/secrets.env; set +a" in before


def test_the_commands_are_sound_shell():
    before = "#!/bin/bash\nexport RAY_HEAD_IP=10.0.0.1 # Ray does that\n"
    with_all = make.GcpCluster("x", "p", "z", "b", "gcr.io/i", ("v4-8",), secrets="s").file()
    for key in ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in with_all[key]:
            done = lint("shellcheck", "--severity=warning", "--exclude=SC1090", text=f"{before}{command}\n")
            assert done.returncode == 0, done.stdout
    assert lint("shellcheck", text=f"{before}if true; then ray start").returncode == 1


def test_googles_registry_needs_a_login():
    image = "us-docker.pkg.dev/p/r/marin-sft:tpu"
    commands = make.GcpCluster("x", "p", "z", "b", image, ("v4-8",)).file()["initialization_commands"]
    assert commands[-1] == "gcloud auth configure-docker us-docker.pkg.dev --quiet"
    for content in EXAMPLES.values():
        registry = content["docker"]["image"].partition("/")[0]
        assert content["initialization_commands"][-1] == f"gcloud auth configure-docker {registry} --quiet"
    elsewhere = make.GcpCluster("x", "p", "z", "b", "me/marin-sft:1", ("v4-8",)).file()["initialization_commands"]
    assert "gcloud" not in " ".join(elsewhere)


def test_an_example_has_a_region_and_a_zone_to_fill_in():
    for content in EXAMPLES.values():
        provider = content["provider"]
        assert (provider["region"], provider["availability_zone"]) == ("<REGION>", "<ZONE>")


# On the head: says which node the worker is once something runs on it, and then when it is drained.
DRIVER = """
import json, time, ray
from ray._private.state import state

ray.init(address="auto", logging_level="ERROR")

@ray.remote(num_cpus=1)
class Busy:
    def where(self):
        return ray.get_runtime_context().get_node_id()

busy = Busy.remote()
print("busy", worker := ray.get(busy.where.remote()), flush=True)
while worker not in state.get_draining_nodes():
    time.sleep(0.2)
print("draining", worker, flush=True)
"""
reason = impossible()


@pytest.mark.torture
@pytest.mark.skipif(bool(reason), reason=str(reason))
def test_the_commands_start_a_cluster_whose_workers_hear_of_their_preemption(tmp_path):
    """As Ray's launcher does it, on two hosts. One of them answers as Google's metadata server."""
    content = EXAMPLES["gcp/v4-spot.yaml"]
    options = (
        option.removeprefix("--env ").split("=", 1) for option in content["docker"]["run_options"] if "--env" in option
    )
    env = {
        **dict(options),
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with Hosts(2, tmp_path) as hosts:
        head, worker = hosts[0], hosts[1]
        with (tmp_path / "hosts").open("a") as names:
            names.write(f"{head.address} metadata.google.internal\n")
        server = ["python", "-m", "tests.run.metadata_server", head.address, "80"]
        metadata = head.start(*server, env=env, stdin=subprocess.PIPE)
        start = content["head_start_ray_commands"][-1].replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "")
        head.run("bash", "-c", start, env=env | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 0}'})
        own = {"RAY_HEAD_IP": head.address, "RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}
        worker.run("bash", "-c", content["worker_start_ray_commands"][-1], env=env | own)

        driver = head.start("python", "-c", DRIVER, env=env, stdout=subprocess.PIPE)
        busy = driver.stdout.readline().split()
        metadata.stdin.write("preempted TRUE\n")
        metadata.stdin.flush()
        assert driver.stdout.readline().split() == ["draining", busy[1]]
        wait_for(lambda: "preempted=TRUE: draining" in worker.run("cat", "/tmp/preemption_poller.log"))
        assert driver.wait(timeout=60) == 0
        driver.stdout.close()
        metadata.stdin.close()
