"""How much of what the devices could compute training makes use of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Dense bfloat16 FLOPs per second of one device, as JAX counts devices, by a part of `jax.Device.device_kind`; the
# first that fits. From the makers' data sheets.
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4 lite": 138e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A40": 149.7e12,
    "L40S": 362e12,
    "L4": 121e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Of one device, in bfloat16; None where we do not know it, as for CPUs."""
    return next((flops for part, flops in PEAK_FLOPS.items() if part.lower() in device_kind.lower()), None)


def flops_per_token(config: Mapping[str, Any], length: int) -> float:
    """What training a model needs for each token of rows of `length`, forward and backward, recomputation left out.

    6 N + 12 L H Q T of PaLM (arXiv 2204.02311, appendix B): N weights that are multiplied with, L layers of H heads of
    size Q, T tokens that each token attends to, all those of the row. `config`: the fields of a `config.json` (see
    `hf_directory.read_config`). A second model, as the reference of DPO, or weights that are frozen do not count.
    """
    hidden, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
    head_size = config.get("head_dim") or hidden // heads
    keys = config.get("num_key_value_heads") or heads
    attention = 2 * hidden * head_size * (heads + keys)  # query and output, key and value
    weights = layers * (attention + 3 * hidden * config["intermediate_size"]) + hidden * config["vocab_size"]
    return 6.0 * weights + 12.0 * layers * heads * head_size * length
