import jax
import numpy as np
import pytest

from marin_sft.training import hf_directory, levanter_model
from marin_sft.training.throughput import flops_per_token, peak_flops
from marin_sft.training.unrolled import unrolled


def test_weights_count_six_flops_a_token_and_attention_what_the_row_is_long(base_model):
    config = hf_directory.read_config(base_model)
    weights = hf_directory.read_tensors(base_model)
    multiplied = sum(tensor.size for name, tensor in weights.items() if tensor.ndim == 2 and "embed" not in name)
    if "lm_head.weight" not in weights:
        multiplied += weights["model.embed_tokens.weight"].size
    assert flops_per_token(config, 0) == 6 * multiplied
    layers, width = config["num_hidden_layers"], config["num_attention_heads"] * config["head_dim"]
    assert flops_per_token(config, 32) - flops_per_token(config, 0) == 12 * layers * width * 32


def test_the_compiler_counts_a_third_of_it_for_the_forward_pass(base_model):
    """To what norms, the softmax and the like add, which the formula leaves out. (It counts a loop's body once.)"""
    config = hf_directory.read_config(base_model)
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
