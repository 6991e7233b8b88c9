import json

import jax
import numpy as np
import pytest

from marin_sft.training.cpu.unrolled import unrolled
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.metrics.throughput import (
    flops_per_token,
    multiplied_weights,
    peak_flops,
    throughput,
    weights_of,
    windows,
)
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.train_run import _counts, _throughput


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


def test_packed_rows_count_what_they_see(base_model):
    """One document as long as the row, all of it trained: the same without attention to what comes after a token."""
    config = ModelDirectory(base_model).config
    plain = throughput(config, "H100", 1)
    length, layers = 64, config["num_hidden_layers"]
    seen = layers * length * (length + 1) / 2
    whole, packed = plain.utilisation(1e6, length), plain.packed_utilisation(1e6, 1e6, 1e6 * seen / length)
    attention = 12 * layers * config["num_attention_heads"] * config["head_dim"]
    assert whole - packed == pytest.approx(1e6 * attention * (length - 1) / 2 / peak_flops("H100"))
    head = 6 * config["hidden_size"] * config["vocab_size"]
    half_trained = plain.packed_utilisation(1e6, 5e5, 1e6 * seen / length)
    assert packed - half_trained == pytest.approx(5e5 * head / peak_flops("H100"))


def test_windows_by_layer():
    assert windows({"num_hidden_layers": 3, "model_type": "llama"}) == {None: 3}
    assert windows({"num_hidden_layers": 3, "model_type": "mistral", "sliding_window": 8}) == {8: 3}
    assert windows({"num_hidden_layers": 3, "model_type": "mistral", "sliding_window": None}) == {None: 3}
    types = ["sliding_attention", "sliding_attention", "full_attention"]
    gemma = {"num_hidden_layers": 3, "model_type": "gemma3_text", "sliding_window": 8, "layer_types": types}
    assert windows(gemma) == {8: 2, None: 1}


def test_fields_that_published_files_leave_out(tmp_path):
    """Those of Gemma 2 and 3: that the head is tied, and which layers have a window."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 1,
             "head_dim": 16, "vocab_size": 100, "num_hidden_layers": 12, "sliding_window": 8}  # fmt: skip
    layers = 12 * (2 * 64 * 16 * (4 + 1) + 3 * 64 * 128)
    for kind, more, expected in (
        ("gemma2", {}, {8: 6, None: 6}),
        ("gemma3_text", {"sliding_window_pattern": 6}, {8: 10, None: 2}),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **sizes, **more}))
        config = ModelDirectory(tmp_path).whole_config
        assert windows(config) == expected
        assert weights_of(config) == layers + 64 * 100
        assert multiplied_weights({"model.embed_tokens.weight": (100, 64)}, config) == 64 * 100


def test_tokens_that_each_token_sees():
    segments, positions = np.array([[0, 0, 0, 1, 1, -1]]), np.array([[0, 1, 2, 0, 1, 0]])
    computed, attended = _counts(segments, positions, ((2, 3), (None, 1)))
    assert (int(computed), int(attended)) == (5, 3 * (1 + 2 + 2 + 1 + 2) + (1 + 2 + 3 + 1 + 2))
