"""Training steps compiled for GPUs and TPUs that are not here, by their own compilers: `make compilers`."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from marin_sft.machines import devices
from tests.compilers.shapes import MODELS

KERNELS = {"H100": "mosaic_gpu_v2", "A100-80G": "__gpu$xla.gpu.triton", "L4": "__gpu$xla.gpu.triton"}
KERNELS["v5p"] = "tpu_custom_call"
NO_KERNEL = {("gemma2_2b", "A100-80G"), ("gemma2_2b", "L4")}  # refused by name: Triton has no soft cap
PROGRAM = """
import json, sys
name, device, count, pairs, changes = *sys.argv[1:3], *map(json.loads, sys.argv[3:])
from marin_sft.machines import devices
from marin_sft.training import predicting
platform = devices()[device].platform
predicting.start(count, platform, device)
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.predicted_memory import Training, compiled, prepared
from marin_sft.training.target import Target, compiling_for
from tests.compilers.shapes import MODELS
from marin_sft.training.sft_config import SFTConfig

paths = dict(base_model="unused", mixture="unused", tokenized={}, output_path="unused", earlier_attempts=())
fields = dict(train_batch_size=count, num_train_steps=4, learning_rate=1e-4, precision="bf16")
changes = {"gradient_checkpointing": "full", **changes}
if "lora" in changes:
    changes["lora"] = LoraConfig(r=16, alpha=32)
config = (DPOConfig if pairs else SFTConfig)(**paths | fields | changes)
target = Target(platform, devices()[device].memory, device)
reference = MODELS[name] if pairs and config.reference_logprobs is None else None
training = Training(config, MODELS[name], 512, reference)
with compiling_for(target), prepared(training) as step:
    found = compiled(step, target)
print(f"{found.memory_analysis().host_temp_size_in_bytes} bytes of the host")
print(found.as_text())
"""

pytestmark = pytest.mark.torture


def compiled(name: str, device: str, count: int, pairs: bool = False, **changes: Any) -> str:
    """pairs: of DPO. changes: to the fields of its config."""
    arguments = (name, device, *map(json.dumps, (count, pairs, changes)))
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def devices_of(device: str) -> int:
    """The fewest that XLA's compiler for TPUs knows, and one GPU."""
    return 4 if devices()[device].platform == "tpu" else 1


@pytest.mark.parametrize("device", KERNELS)
@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_each_family(name, device):
    if (name, device) in NO_KERNEL:
        with pytest.raises(AssertionError, match="triton cannot compute this model: the backward pass has no soft cap"):
            compiled(name, device, devices_of(device))
        return
    assert f'custom_call_target="{KERNELS[device]}"' in compiled(name, device, devices_of(device))


@pytest.mark.parametrize("device", ["v5litepod", "v6e"])
def test_other_tpus(device):  # a minute or more each, hence one model
    assert f'custom_call_target="{KERNELS["v5p"]}"' in compiled("gemma2_2b", device, 4)


@pytest.mark.parametrize(("name", "device"), [("llama_3_8b", "H100"), ("gemma3_1b", "H100"), ("gemma3_1b", "v5p")])
@pytest.mark.parametrize(
    ("pairs", "changes"),
    [
        (False, {"lora": True}),
        (True, {"reference_logprobs": "unused"}),
        (True, {"reference_model": "unused"}),
        (True, {"reference_logprobs": "unused", "lora": True}),
    ],
    ids=["lora", "dpo", "dpo_reference", "dpo_lora"],
)
def test_pairs_and_adapters(name, device, pairs, changes):
    program = compiled(name, device, devices_of(device), pairs, **changes)
    assert f'custom_call_target="{KERNELS[device]}"' in program


@pytest.mark.parametrize("device", ["H100", "A100-80G", "L4"])
@pytest.mark.parametrize("name", ["llama_3_8b", "gemma_2b"])
def test_kernels_of_32_bits_have_enough_shared_memory(name, device):
    assert KERNELS["A100-80G"] in compiled(name, device, 1, precision="fp32")


def test_weights_and_gradients_cross_devices_in_16_bits():
    program = compiled("llama_3_8b", "H100", 8)
    gathered = re.findall(r"%all-gather-start\S* = (.*) all-gather-start\(", program)
    scattered = re.findall(r"%reduce-scatter-start\S* = (.*) reduce-scatter-start\(", program)
    assert gathered and scattered
    assert not re.search(r"f32\[\d+,", " ".join(gathered + scattered))


@pytest.mark.parametrize("name", ["llama_3_8b", "gemma3_1b"])
@pytest.mark.parametrize("count", [1, 2])
def test_what_enters_a_layer_is_offloaded_and_nothing_else(name, count):
    fields = MODELS[name]
    entering = fields["num_hidden_layers"] * 512 * fields["hidden_size"] * 2  # a row per device, in 16 bits
    program = compiled(name, "H100", count, gradient_checkpointing="offload")
    assert program.startswith(f"{entering} bytes of the host\n")
