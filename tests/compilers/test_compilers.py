"""Training steps compiled for GPUs and TPUs that are not here, by their own compilers: `make compilers`."""

import re
import subprocess
import sys

import pytest

from marin_sft.machines import devices
from tests.compilers.shapes import MODELS

KERNELS = {"H100": "mosaic_gpu_v2", "A100-80G": "__gpu$xla.gpu.triton", "L4": "__gpu$xla.gpu.triton"}
KERNELS["v5p"] = "tpu_custom_call"
NO_KERNEL = {("gemma2_2b", "A100-80G"), ("gemma2_2b", "L4")}  # refused by name: Triton has no soft cap
PROGRAM = """
import sys
name, device, count, precision, recomputed = sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]
from marin_sft.machines import devices
from marin_sft.training import predicting
platform = devices()[device].platform
predicting.start(count, platform, device)
from marin_sft.training.predicted_memory import Training, compiled, prepared
from marin_sft.training.target import Target, compiling_for
from tests.compilers.shapes import MODELS
from tests.training.small_runs import sft_config

config = sft_config("unused", train_batch_size=count, precision=precision, gradient_checkpointing=recomputed)
target = Target(platform, devices()[device].memory, device)
with compiling_for(target), prepared(Training(config, MODELS[name], 512)) as step:
    found = compiled(step, target)
print(f"{found.memory_analysis().host_temp_size_in_bytes} bytes of the host")
print(found.as_text())
"""

pytestmark = pytest.mark.torture


def compiled(name: str, device: str, count: str, precision: str, recomputed: str = "full") -> str:
    arguments = (name, device, count, precision, recomputed)
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("device", KERNELS)
@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_each_family(name, device):
    count = "4" if devices()[device].platform == "tpu" else "1"
    if (name, device) in NO_KERNEL:
        with pytest.raises(AssertionError, match="triton cannot compute this model: the backward pass has no soft cap"):
            compiled(name, device, count, "bf16")
        return
    program = compiled(name, device, count, "bf16")
    assert f'custom_call_target="{KERNELS[device]}"' in program


@pytest.mark.parametrize("device", ["H100", "A100-80G", "L4"])
@pytest.mark.parametrize("name", ["llama_3_8b", "gemma_2b"])
def test_kernels_of_32_bits_have_enough_shared_memory(name, device):
    assert KERNELS["A100-80G"] in compiled(name, device, "1", "fp32")


def test_weights_and_gradients_cross_devices_in_16_bits():
    program = compiled("llama_3_8b", "H100", "8", "bf16")
    gathered = re.findall(r"%all-gather-start\S* = (.*) all-gather-start\(", program)
    scattered = re.findall(r"%reduce-scatter-start\S* = (.*) reduce-scatter-start\(", program)
    assert gathered and scattered
    assert not re.search(r"f32\[\d+,", " ".join(gathered + scattered))


@pytest.mark.parametrize("name", ["llama_3_8b", "gemma3_1b"])
@pytest.mark.parametrize("count", ["1", "2"])
def test_what_enters_a_layer_is_offloaded_and_nothing_else(name, count):
    fields = MODELS[name]
    entering = fields["num_hidden_layers"] * 512 * fields["hidden_size"] * 2  # a row per device, in 16 bits
    assert compiled(name, "H100", count, "bf16", "offload").startswith(f"{entering} bytes of the host\n")
