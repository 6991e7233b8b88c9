"""How much of the devices' peak compute training uses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from marin_sft.training.models.model_config import Fields, head_size

# Dense bfloat16 FLOPs per second of one device, as JAX counts devices, from the makers' data sheets. The key is a part
# of `jax.Device.device_kind`; the first match counts.
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
    "L40": 181e12,
    "L4": 121e12,
}


@dataclass(frozen=True)
class Throughput:
    """model: the fields of a `config.json`.
    peak: FLOPs per second of all devices. None: not known.
    frozen, added: see `flops_per_token`.
    head_frozen: the head is among the frozen weights.
    """

    model: Fields
    peak: float | None
    frozen: int = 0
    added: int = 0
    head_frozen: bool = False

    def utilisation(self, tokens_per_second: float, length: int) -> float | None:
        """MFU: the model's FLOPs as a share of the peak, for rows of `length` tokens. Each token counts as if it
        attended to the whole row, and its logits were needed: as in the tables of others."""
        if self.peak is None:
            return None
        flops = flops_per_token(self.model, length, frozen=self.frozen, added=self.added)
        return tokens_per_second * flops / self.peak

    def packed_utilisation(
        self, tokens_per_second: float, trained_per_second: float, attended_per_second: float
    ) -> float | None:
        """The same for what packed rows need: each token attends to those before it in its document and window, and
        only trained tokens have logits. `attended_per_second`: see `Amount.attended`."""
        if self.peak is None:
            return None
        weights = flops_per_token(self.model, 0, frozen=self.frozen, added=self.added)
        of_head = (4.0 if self.head_frozen else 6.0) * self.model["hidden_size"] * self.model["vocab_size"]
        heads, size = self.model["num_attention_heads"], head_size(self.model)
        flops = tokens_per_second * (weights - of_head) + trained_per_second * of_head
        return (flops + attended_per_second * 12.0 * heads * size) / self.peak


def throughput(
    model: Fields, device_kind: str, devices: int, frozen: int = 0, added: int = 0, head_frozen: bool = False
) -> Throughput:
    """On `devices` devices of one kind."""
    peak = peak_flops(device_kind)
    return Throughput(model, None if peak is None else devices * peak, frozen, added, head_frozen)


def windows(config: Fields) -> dict[int | None, int]:
    """How many layers see how many tokens. None: all of the document. `config`: the fields of a `config.json`."""
    layers, window = config["num_hidden_layers"], config.get("sliding_window")
    types = ["sliding_attention"] * layers if config["model_type"] == "mistral" else config.get("layer_types") or ()
    slides = 0 if window is None else types.count("sliding_attention")
    return {size: count for size, count in ((window, slides), (None, layers - slides)) if count}


def multiplied_weights(shapes: Mapping[str, tuple[int, ...]], model: Fields) -> int:
    """How many weights a token is multiplied with: all matrices, except embeddings that are not tied to the head.

    `shapes`: shapes of tensors of `model` by Hugging Face name.
    """
    tied = model.get("tie_word_embeddings", False)
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    return sum(math.prod(shape) for name, shape in matrices.items() if tied or not name.endswith("embed_tokens.weight"))


def weights_of(config: Fields) -> int:
    """Weights of a model, except norms and biases. `config`: the fields of a `config.json`."""
    embeddings = 0 if config.get("tie_word_embeddings", False) else config["hidden_size"] * config["vocab_size"]
    return int(flops_per_token(config, 0)) // 6 + embeddings


def peak_flops(device_kind: str) -> float | None:
    """Of one device, in bfloat16. None: not known, e.g. for CPUs."""
    return next((flops for part, flops in PEAK_FLOPS.items() if part.lower() in device_kind.lower()), None)


def flops_per_token(config: Fields, length: int, *, frozen: int = 0, added: int = 0) -> float:
    """FLOPs that training needs per token of rows of `length`, forward and backward, without recomputation.

    6 N + 12 L H Q T of PaLM (arXiv 2204.02311, appendix B): N weights that a token is multiplied with, L layers of H
    heads of size Q, T tokens that each token attends to: all those of the row. `config`: the fields of a `config.json`
    (see `ModelDirectory.config`). A second model, e.g. the reference of DPO, does not count.

    `frozen`: how many of the N have no gradient and need 4 instead of 6 (although the backward pass ends at the first
    trained layer). `added`: the weights of an adapter, in addition to the N.
    """
    hidden, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
    size, keys = head_size(config), config.get("num_key_value_heads") or heads
    attention = 2 * hidden * size * (heads + keys)  # query and output, key and value
    weights = layers * (attention + 3 * hidden * config["intermediate_size"]) + hidden * config["vocab_size"]
    return 6.0 * (weights + added) - 2.0 * frozen + 12.0 * layers * heads * size * length
