import pickle
import re
import subprocess
import sys

import pytest

from marin_sft.errors import ConfigError
from marin_sft.execution.resources import CpuConfig, GpuConfig, RuntimeEnv, TpuPodConfig, demand
from marin_sft.executor.ray import (
    CpuAcceleratorConfig,
    GpuAcceleratorConfig,
    TpuAcceleratorConfig,
    execute,
    surrounding_resources,
)


def test_what_eformer_s_configs_ask_for():
    env = RuntimeEnv()
    assert CpuAcceleratorConfig(4).resources == CpuConfig(4, runtime_env=env)
    gpus = GpuAcceleratorConfig(8, gpu_model="A100", cpu_count=16)
    assert gpus.resources == GpuConfig(16, gpu_count=8, accelerator_type="A100", runtime_env=env)
    slices = TpuAcceleratorConfig("v5e-128", pod_count=2, chips_per_host=4)
    expected = TpuPodConfig(2, tpu_type="v5litepod-128", slice_count=2, custom={"TPU": 4}, runtime_env=env)
    assert slices.resources == expected
    assert demand(slices.resources) == {"CPU": 2, "TPU": 4}
    other = TpuAcceleratorConfig(accelerator="v4-64", worker_count=8, runtime_name="mine")
    assert other.resources == TpuAcceleratorConfig(tpu_version="v4-64").resources and other.unused() == ["worker_count"]
    assert pickle.loads(pickle.dumps(slices)) == slices


def test_an_environment_is_told_apart_by_what_may_be_seen():
    variables = {"HF_TOKEN": "x", "EASYDEL_AUTO": "1", "HF_HOME": "/h", "WANDB_API_KEY": "", "UNSET": None}
    config = CpuAcceleratorConfig(execution_env={"env_vars": variables, "pip": ["einops"], "working_dir": "."})
    environment = config.environment
    assert environment.private == {"HF_TOKEN": "x", "EASYDEL_AUTO": "1"} and environment.visible == {"HF_HOME": "/h"}
    assert environment.runtime_env == {"pip": ["einops"], "working_dir": "."}
    assert config.resources.runtime_env == RuntimeEnv({"HF_HOME": "/h"}, ("einops",))
    assert "hf_abc" not in repr(CpuAcceleratorConfig(execution_env={"env_vars": {"HF_TOKEN": "hf_abc"}}))


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: TpuAcceleratorConfig("TPU-V4"),
            "TpuAcceleratorConfig: resources.tpu_type: got 'TPU-V4', expected a type",
        ),
        (lambda: TpuAcceleratorConfig(), 'expected one of them, e.g. TpuAcceleratorConfig("v4-64")'),
        (lambda: TpuAcceleratorConfig("v4-8", accelerator="v4-8"), "tpu_version='v4-8', accelerator='v4-8'"),
        (lambda: TpuAcceleratorConfig("v4-8", pod_count=0), "resources.slice_count: got 0"),
        (lambda: TpuAcceleratorConfig("v4-8", pod_cuont=1), "has no field 'pod_cuont': did you mean 'pod_count'"),
        (lambda: GpuAcceleratorConfig(gpu_model="h100"), "such as 'H100'"),
        (lambda: CpuAcceleratorConfig("4"), "CpuAcceleratorConfig.core_count = '4': expected a finite number"),
        (
            lambda: CpuAcceleratorConfig(execution_env={"pips": []}),
            "['pips']: Ray knows no such entry; did you mean 'pip'?",
        ),
        (lambda: CpuAcceleratorConfig(execution_env={"env_vars": {"A": 1}}), "['env_vars']['A']: expected a text"),
        (lambda: execute(lambda: None), 'as in @execute(TpuAcceleratorConfig("v4-64")); got function'),
        (lambda: execute(CpuAcceleratorConfig())(7), "expected a function, got 7"),
    ],
)
def test_mistakes_are_said_when_it_is_made(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


def test_outside_of_execute_nothing_surrounds():
    assert surrounding_resources() is None


def test_importing_it_is_light():
    heavy = "{'jax', 'ray', 'transformers', 'datasets', 'levanter', 'numpy'} & set(sys.modules)"
    program = f"import marin_sft.executor.ray, sys; sys.exit(str({heavy}) if {heavy} else 0)"
    subprocess.run([sys.executable, "-c", program], check=True)
