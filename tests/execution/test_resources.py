"""Requests are checked before anything runs, and are no part of what a step is."""

import dataclasses
import json
import os
import pickle
import re
import subprocess
import sys

import pytest
from ray._private.accelerators.tpu import (
    VALID_TPU_TOPOLOGY,
    get_chips_per_host,
    get_num_chips_from_topology,
    infer_tpu_pod_type_from_topology,
)

from marin_sft import CpuConfig, ExecutorStep, GpuConfig, RuntimeEnv, TpuPodConfig, step_fn, this_output_path
from marin_sft.errors import ConfigError
from marin_sft.execution import resources as resources_module
from marin_sft.execution.graph import build_graph
from marin_sft.execution.ray_environment import is_loopback, keep_token_private
from marin_sft.execution.record import describe
from marin_sft.execution.resources import ACCELERATORS, Resources, demand, hosts_of, lacking_here, tpu_head
from marin_sft.machines import Slice, slice_of
from marin_sft.steps import tokenize
from marin_sft.trainers.hardware import devices_seen
from marin_sft.training.devices import devices_of


def body(config):
    pass


def fingerprint(resources: Resources, in_config: Resources | None = None) -> str:
    config = {"out": this_output_path(), "resources": in_config or CpuConfig()}
    return build_graph([ExecutorStep("a", body, config, resources=resources)]).nodes[0].fingerprint


def test_no_part_of_identity():
    rich = GpuConfig(
        4, 2**30, 8, "H100", custom={"magic": 1}, runtime_env=RuntimeEnv({"A": "b"}, ("x==1",), "gs://b/c.zip")
    )
    plain = fingerprint(CpuConfig())
    assert {fingerprint(rich), fingerprint(TpuPodConfig(tpu_type="v4-8")), fingerprint(CpuConfig(), rich)} == {plain}


def test_values():
    rich = CpuConfig(custom={"magic": 1}, runtime_env=RuntimeEnv({"A": "b"}))
    assert hash(rich) == hash(dataclasses.replace(rich)) and pickle.loads(pickle.dumps(rich)) == rich
    assert json.loads(json.dumps(describe(rich)))["runtime_env"]["env_vars"] == {"A": "b"}


def test_demand():
    assert demand(CpuConfig(2, 10, custom={"magic": 0.5})) == {"CPU": 2, "memory": 10, "magic": 0.5}
    assert demand(GpuConfig(gpu_count=2, accelerator_type="H100")) == {
        "CPU": 1,
        "GPU": 2,
        "accelerator_type:H100": 0.001,
    }
    assert demand(TpuPodConfig(tpu_type="v4-8")) == {"CPU": 1, "TPU": 4, "TPU-v4-8-head": 1}
    assert demand(TpuPodConfig(tpu_type="v4-128")) == {"CPU": 1, "TPU": 4}  # on each host


def test_steps_that_run_on_one_host_refuse_several():
    rows = tokenize("t", "gs://b/rows.jsonl", tokenizer="gs://b/tokenizer", resources=CpuConfig(hosts=2))
    with pytest.raises(
        ConfigError, match="step 'tokenized/t' resources: .* has 2 hosts, but .* 'tokenize' runs on one"
    ):
        build_graph([rows])


def test_hosts():
    assert [hosts_of(CpuConfig()), hosts_of(CpuConfig(hosts=3)), hosts_of(GpuConfig(gpu_count=8, hosts=2))] == [1, 3, 2]
    slices = {"v4-8": 1, "v4-128": 16, "v5e-8": 1, "v5e-16": 4, "v5p-128": 16, "v6e-8": 1, "v6e-256": 64, "v3-8": 1}
    assert {kind: hosts_of(TpuPodConfig(tpu_type=kind)) for kind in slices} == slices
    assert hosts_of(TpuPodConfig(tpu_type="v4-64", slice_count=2)) == 16


@pytest.mark.parametrize("version", VALID_TPU_TOPOLOGY)
def test_the_machines_of_a_slice_are_those_that_ray_knows(version):
    for topology in VALID_TPU_TOPOLOGY[version]:
        kind = infer_tpu_pod_type_from_topology(topology, version)
        chips, per_host = get_num_chips_from_topology(topology), get_chips_per_host(topology, version)
        assert slice_of(kind) == Slice(max(1, chips // per_host), min(chips, per_host)), topology


@pytest.mark.parametrize("name", ["v3-8", "v4-64", "v4-128", "v5p-8", "v5e-128", "v5litepod-128", "v6e-8"])
def test_tpu_types_of_ray_and_of_their_users(name):
    """Ray names the resource of a slice's first host after what Google calls the type."""
    resources = TpuPodConfig(tpu_type=name)
    build_graph([ExecutorStep("s", body, this_output_path(), resources=resources)])
    assert tpu_head(resources.tpu_type) == f"TPU-{name.replace('v5e', 'v5litepod')}-head"
    assert TpuPodConfig(tpu_type="v5e-128") == TpuPodConfig(tpu_type="v5litepod-128")


@pytest.mark.parametrize(
    "resources, message",
    [
        (CpuConfig(-1), "resources.cpus: got -1, expected a number of cores >= 0"),
        (CpuConfig(float("nan")), "resources.cpus: got nan"),
        (CpuConfig("2"), "resources.cpus: got '2'"),
        (CpuConfig(memory=0), "resources.memory: got 0"),
        (CpuConfig(custom={"GPU": 1}), "resources.custom: got 'GPU', expected a custom resource; use GpuConfig"),
        (CpuConfig(custom={"magic": -1}), "resources.custom['magic']: got -1"),
        (CpuConfig(custom=["magic"]), "resources.custom: got ['magic'], expected numbers by name"),
        (CpuConfig(custom=None), "resources.custom: got None, expected numbers by name"),
        (GpuConfig(gpu_count=1.5), "resources.gpu_count: got 1.5, expected a whole number"),
        (GpuConfig(gpu_count=0), "resources.gpu_count: got 0"),
        (
            GpuConfig(accelerator_type="h100"),
            "resources.accelerator_type: got 'h100', expected one of Ray's names, such as 'H100'",
        ),
        (TpuPodConfig(tpu_type="v4"), "resources.tpu_type: got 'v4'"),
        (TpuPodConfig(tpu_type="v4-12"), "resources.tpu_type: got 'v4-12'"),
        (TpuPodConfig(tpu_type="v9-8"), "resources.tpu_type: got 'v9-8'"),
        (GpuConfig(gpu_count="two"), "resources.gpu_count: got 'two', expected a whole number"),
        (GpuConfig(accelerator_type=["H100"]), "resources.accelerator_type: got ['H100'], expected one of Ray's names"),
        (CpuConfig(hosts="2"), "resources.hosts: got '2', expected a whole number"),
        (TpuPodConfig(tpu_type=4), "resources.tpu_type: got 4, expected a type and its cores"),
        (TpuPodConfig(tpu_type="v4-8", slice_count="2"), "resources.slice_count: got '2', expected a whole number"),
        (CpuConfig(hosts=0), "resources.hosts: got 0, expected a whole number >= 1"),
        (GpuConfig(hosts=1.5), "resources.hosts: got 1.5"),
        (
            TpuPodConfig(tpu_type="v9-8"),
            "resources.tpu_type: got 'v9-8', expected a type and its cores, such as \"v4-8\"",
        ),
        (TpuPodConfig(tpu_type="v4-8", slice_count=0), "resources.slice_count: got 0"),
        (CpuConfig(runtime_env={"pip": []}), "resources.runtime_env: got {'pip': []}, expected a RuntimeEnv"),
        (
            CpuConfig(runtime_env=RuntimeEnv({"A": 1})),
            "resources.runtime_env.env_vars['A']: got 'int', expected a string",
        ),
        (CpuConfig(runtime_env=RuntimeEnv(["A"])), "resources.runtime_env.env_vars: got ['A'], expected texts by name"),
        (CpuConfig(runtime_env=RuntimeEnv(pip=3)), "resources.runtime_env.pip: got 3, expected a tuple"),
        (CpuConfig(runtime_env=RuntimeEnv(pip="x")), "resources.runtime_env.pip: got 'x', expected a tuple"),
        (CpuConfig(runtime_env=RuntimeEnv(working_dir=".")), "the URL of a zip file; to ship a local directory"),
        ("cpu", "resources: got 'cpu', expected CpuConfig, GpuConfig or TpuPodConfig"),
    ],
)
def test_bad_requests_name_the_step(resources, message):
    step = ExecutorStep("some/step", body, this_output_path(), resources=resources)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        build_graph([step])
    assert "step 'some/step'" in str(caught.value)
    assert devices_of(resources) is None  # so a training step is refused in the same words
    with pytest.raises(ConfigError, match=re.escape(message)):
        devices_seen(resources)


def test_secrets_are_refused_without_their_value():
    step = ExecutorStep("s", body, "", resources=CpuConfig(runtime_env=RuntimeEnv({"HF_TOKEN": "hf_abc"})))
    with pytest.raises(ConfigError, match="HF_TOKEN.*ray_run --env_vars HF_TOKEN") as caught:
        build_graph([step])
    assert "hf_abc" not in str(caught.value)


def test_accelerators_are_those_that_ray_knows():
    """In a process of its own: tests of planning want none of ray."""
    program = (
        "import json; import ray.util.accelerators.accelerators as names;"
        "print(json.dumps([value for name, value in vars(names).items() if name[0].isupper()]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == ACCELERATORS


def test_inline_steps_get_their_variables(pipeline, monkeypatch):
    monkeypatch.setenv("KEPT", "before")
    seen = {}

    @step_fn(kind="look")
    def look(config):
        seen.update({name: os.environ.get(name) for name in ("KEPT", "ADDED")})

    env = RuntimeEnv({"KEPT": "inside", "ADDED": "too"})
    pipeline.run(ExecutorStep("look", look, this_output_path(), resources=CpuConfig(runtime_env=env)))
    assert seen == {"KEPT": "inside", "ADDED": "too"}
    assert os.environ["KEPT"] == "before" and "ADDED" not in os.environ


def test_loopback():
    near = ["http://127.0.0.1:8265", "localhost:6379", "localhost", "http://[::1]:80/x", "127.0.0.1"]
    far = ["http://head:8265", "10.0.0.1:6379", "auto", "http://localhost.example.com", "ray://127.0.0.2:1"]
    assert all(map(is_loopback, near)) and not any(map(is_loopback, far))


def test_the_token_is_private(tmp_path, monkeypatch):
    """Ray makes its token with rights for everybody."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    new, old = tmp_path / "ray" / "new", tmp_path / "old"
    old.write_text("known")
    old.chmod(0o644)
    for path in (new, old):
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
        keep_token_private()
        assert path.stat().st_mode & 0o777 == 0o600
    assert len(new.read_text()) == 64 and old.read_text() == "known"


@pytest.fixture
def devices(tmp_path, monkeypatch):
    """A machine with such device files, by the kind that they are of; none before it is called."""
    for kind in ("GPU", "UNCOUNTED_GPU", "TPU"):
        monkeypatch.setattr(resources_module, f"_{kind}_FILES", (f"{tmp_path}/{kind}[0-9]*",))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(kind: str, count: int) -> None:
        for i in range(count):
            (tmp_path / f"{kind}{i}").touch()

    return make


def test_what_this_machine_has_not(devices, monkeypatch):
    gpus, tpu = GpuConfig(gpu_count=2), TpuPodConfig(tpu_type="v4-8")
    assert lacking_here(CpuConfig(512, 2**50)) == []
    assert lacking_here(gpus) == ["this machine has no GPU; the step runs without it"]
    assert lacking_here(tpu) == ["this machine has no TPU (v4-8); the step runs without it"]
    assert lacking_here(CpuConfig(custom={"magic": 1})) == [
        "this machine has no resource 'magic'; the step runs without it"
    ]
    devices("GPU", 1)
    assert lacking_here(gpus) == ["the step requests 2 GPUs, but this machine has 1; it runs on these"]
    assert lacking_here(GpuConfig(gpu_count=0.5)) == []
    devices("GPU", 4)
    devices("TPU", 1)
    assert lacking_here(gpus) == lacking_here(tpu) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert "this machine has 1" in lacking_here(gpus)[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert lacking_here(gpus) == ["this machine has no GPU; the step runs without it"]
    devices("UNCOUNTED_GPU", 1)
    assert lacking_here(gpus) == []


def test_it_is_told_inline_once(devices, pipeline, capsys):
    gpu = GpuConfig(runtime_env=RuntimeEnv(pip=("x==1",)))
    steps = [dataclasses.replace(pipeline.step(name), resources=gpu) for name in ("a", "b")]
    pipeline.run(*steps)
    told = capsys.readouterr().out
    assert "a: this machine has no GPU; the step runs without it\n" in told and told.count("no GPU") == 1
    assert told.count("runtime_env.pip needs a separate process, so --backend inline ignores it") == 1
