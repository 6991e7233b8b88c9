"""Compares the memory that `marin-sft fit` predicts for a training step with what the step takes, on this device.

fit.py [MODEL...]           each in a process of its own
fit.py predict MODEL        on any machine
fit.py measure MODEL
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import tell

from marin_sft.recipes.llama import llama_3_2_1b
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import LlamaConfig, Qwen3Config
from marin_sft.training.models.model_config import Fields
from marin_sft.training.sft_config import SFTConfig

STEPS = 2
LLAMA = LlamaConfig(max_seq_len=512, hidden_dim=640, intermediate_dim=1792, num_layers=12, num_heads=10, num_kv_heads=5)
QWEN = Qwen3Config(
    max_seq_len=1024, hidden_dim=512, intermediate_dim=1536, num_layers=10, num_heads=8, num_kv_heads=4, head_dim=64
)
LORA = LoraConfig(r=16, alpha=32)
MODELS: dict[str, tuple[LlamaConfig, int, bool | str, dict[str, Any]]] = {
    "llama_96m": (LLAMA, 32_000, False, {"train_batch_size": 4, "precision": "fp32"}),
    "qwen3_70m": (QWEN, 64_000, True, {"train_batch_size": 4, "precision": "fp32", "per_device_parallelism": 2}),
    "llama_96m_lora": (LLAMA, 32_000, False, {"train_batch_size": 8, "precision": "fp32", "lora": LORA}),
    "llama_1b": (llama_3_2_1b, 128_256, "save_products", {"train_batch_size": 8}),
    "llama_1b_lora": (llama_3_2_1b, 128_256, True, {"train_batch_size": 8, "lora": LORA}),
}
"""Shape, vocabulary, `gradient_checkpointing`, and other settings."""
ON_CPU, ON_GPU = ("llama_96m", "qwen3_70m", "llama_96m_lora"), ("llama_1b", "llama_1b_lora")


def training(name: str) -> tuple[SFTConfig, Fields, int]:
    shape, vocabulary, recomputed, settings = MODELS[name]
    config = SFTConfig(
        mixture="", tokenized={}, base_model="", output_path="", earlier_attempts=(), num_train_steps=STEPS,
        learning_rate=1e-4, gradient_checkpointing=recomputed, **settings,
    )  # fmt: skip
    return config, shape.hf_config(vocabulary), shape.max_seq_len


def predict(name: str, platform: str, memory: str, kind: str) -> dict[str, Any]:
    """On one CPU, as `marin-sft fit` does. kind: JAX's name of the device, such as "NVIDIA H100 80GB HBM3"."""
    from marin_sft.training import predicting
    from marin_sft.training.described_devices import CHIPS, has_compiler

    known = (device for device in CHIPS if all(part in kind for part in device.split("-")))
    device = next((device for device in known if has_compiler(device, 1)), None)
    predicting.start(1, platform, device)
    from marin_sft.training.predicted_memory import Training, predict
    from marin_sft.training.target import Target

    need = predict(Training(*training(name)), Target(platform, int(memory) or None, device))
    return {**vars(need), "compiler": device or "CPU"}


def measure(name: str) -> dict[str, Any]:
    import jax

    from marin_sft.training.predicted_memory import Training, prepared
    from marin_sft.training.target import target
    from marin_sft.training.train_step import step_function

    def filled(shape: jax.ShapeDtypeStruct) -> jax.Array:
        value = 0 if jax.numpy.issubdtype(shape.dtype, jax.numpy.integer) else 0.01
        return jax.numpy.full(shape.shape, value, shape.dtype, device=shape.sharding)

    def is_shape(leaf: object) -> bool:
        return isinstance(leaf, jax.ShapeDtypeStruct)

    with prepared(Training(*training(name))) as step:
        take_step = step_function(step.trainer, step.loss)

        def run(steps: int) -> None:
            state, batch = (
                jax.tree_util.tree_map(lambda leaf: filled(leaf) if is_shape(leaf) else leaf, tree)
                for tree in (step.state, step.batch)
            )
            for _ in range(steps):
                state, metrics = take_step(state, batch)
                jax.block_until_ready(metrics)

        run(1)  # compiles
        if target().platform != "cpu":
            (device,) = jax.local_devices()
            return {"peak": device.memory_stats()["peak_bytes_in_use"]}
        gc.collect()
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held
        run(STEPS)
        return {"peak": _memory("VmHWM") - before}


def _memory(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def main(names: list[str]) -> None:
    devices = json.loads(_run("devices", {}))
    for name in names or (ON_CPU if devices["platform"] == "cpu" else ON_GPU):
        begun = time.perf_counter()
        on_cpu = {"JAX_PLATFORMS": "cpu"}
        device = (devices["platform"], str(devices["memory"] or 0), devices["kind"])
        need = json.loads(_run("predict", on_cpu, name, *device))
        took = time.perf_counter() - begun
        peak = json.loads(_run("measure", {}, name))["peak"]
        share = need["peak"] / peak - 1
        text = f"predicted {need['peak'] / 2**30:.2f} GiB, measured {peak / 2**30:.2f} GiB: {share:+.1%}"
        how = f"predicted with the compiler for {need['compiler']} in {took:.0f} s"
        tell(f"fit {name}", f"{text}; {how}", predicted=need["peak"], measured=peak, compiler=need["compiler"])


def devices() -> dict[str, Any]:
    import jax

    from marin_sft.training.target import target

    return {**vars(target()), "kind": jax.devices()[0].device_kind}


def _run(what: str, environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, __file__, what, *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    parts: dict[str, Callable[..., Any]] = {"predict": predict, "measure": measure, "devices": devices}
    if len(sys.argv) > 1 and sys.argv[1] in parts:
        print(json.dumps(parts[sys.argv[1]](*sys.argv[2:])))
    else:
        main(sys.argv[1:])
