import jax
import numpy as np
import pytest

from marin_sft.training.cpu.unrolled import unrolled
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.metrics.throughput import flops_per_token, multiplied_weights, peak_flops
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.train_run import _throughput


def test_weights_count_six_flops_a_token_and_attention_what_the_row_is_long(base_model):
    config = ModelDirectory(base_model).config
    weights = dict(ModelDirectory(base_model).tensors())
    multiplied = sum(tensor.size for name, tensor in weights.items() if tensor.ndim == 2 and "embed" not in name)
    if "lm_head.weight" not in weights:
        multiplied += weights["model.embed_tokens.weight"].size
    assert flops_per_token(config, 0) == 6 * multiplied
    layers, width = config["num_hidden_layers"], config["num_attention_heads"] * config["head_dim"]
    assert flops_per_token(config, 32) - flops_per_token(config, 0) == 12 * layers * width * 32


def test_frozen_weights_need_no_gradient_and_those_of_an_adapter_count(base_model):
    config = ModelDirectory(base_model).config
    plain = levanter_model.load_model(base_model)
    shapes = levanter_model.state_shapes(plain)
    weights = multiplied_weights(shapes, config)
    assert flops_per_token(config, 0) == 6 * weights
    with_adapter = levanter_model.load_model(base_model, lora=LoraConfig(r=3, alpha=3, target_modules=["q_proj"]))
    found, nothing = _throughput(config, with_adapter, None), _throughput(config, plain, None)
    out, into = shapes["model.layers.0.self_attn.q_proj.weight"]
    added = config["num_hidden_layers"] * 3 * (into + out)
    assert (found.frozen, found.added, nothing.frozen, nothing.added) == (weights, added, 0, 0)
    # Forward and back through all weights; the gradients of the adapter's alone.
    assert flops_per_token(config, 0, frozen=found.frozen, added=found.added) == 4 * (weights + added) + 2 * added


def test_the_compiler_counts_a_third_of_it_for_the_forward_pass(base_model):
    """To what norms, the softmax and the like add, which the formula leaves out. (It counts a loop's body once.)"""
    config = ModelDirectory(base_model).config
    model, tokens = unrolled(levanter_model.load_model(base_model)), np.zeros((1, 32), np.int32)
    compiled = jax.jit(lambda tokens: levanter_model.logits(model, tokens)).lower(tokens).compile()
    counted = compiled.cost_analysis()["flops"] / 32
    assert flops_per_token(config, 32) / 3 == pytest.approx(counted, rel=0.25)


def test_the_peak_is_that_of_the_devices_name():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v5p") == 459e12 and peak_flops("TPU v5") == 459e12
    assert peak_flops("TPU v4") == 275e12
    assert peak_flops("cpu") is None
