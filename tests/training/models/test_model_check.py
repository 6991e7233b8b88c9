import dataclasses

import pytest

from experiments.llama import llama_8b
from experiments.qwen3 import qwen2_5_1_5b, qwen3_14b
from marin_sft.errors import TrainingError
from marin_sft.training.models.levanter_model import load_model
from marin_sft.training.models.model_check import check_model

# Of the config.json of meta-llama/Llama-3.1-8B: no head_dim, no tie_word_embeddings but the default.
LLAMA_3_1_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "max_position_embeddings": 131072, "vocab_size": 128256,
}  # fmt: skip

QWEN_2_5_1_5B = {
    "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "max_position_embeddings": 131072, "tie_word_embeddings": True, "vocab_size": 151936,
}  # fmt: skip


def test_the_published_shapes_are_recognised():
    check_model(qwen2_5_1_5b, QWEN_2_5_1_5B, "models/qwen2")
    check_model(llama_8b, LLAMA_3_1_8B, "models/llama")
    check_model(qwen3_14b, {**qwen3_14b.hf_config(151936), "max_position_embeddings": 40960}, "models/qwen")


OTHERS = {
    "hidden_dim": {"hidden_size": 2048, "head_dim": 128},
    "intermediate_dim": {"intermediate_size": 8192},
    "num_layers": {"num_hidden_layers": 16},
    "num_heads": {"num_attention_heads": 16, "head_dim": 128},
    "num_kv_heads": {"num_key_value_heads": 4},
    "head_size": {"head_dim": 64},
    "rope_theta": {"rope_theta": 10000.0},
    "layer_norm_epsilon": {"rms_norm_eps": 1e-6},
    "tie_word_embeddings": {"tie_word_embeddings": True},
    "max_seq_len": {"max_position_embeddings": 2048},
}


@pytest.mark.parametrize("field", OTHERS)
def test_a_difference_is_named(field):
    with pytest.raises(
        TrainingError, match=rf"LlamaConfig.*models/x/config.json.: {field} = \S+, but \w+ = \S+\. Give"
    ):
        check_model(llama_8b, {**LLAMA_3_1_8B, **OTHERS[field]}, "models/x")


def test_another_architecture():
    with pytest.raises(TrainingError, match="model_type = 'qwen3', but model_type = 'llama'"):
        check_model(qwen3_14b, LLAMA_3_1_8B, "models/x")
    with pytest.raises(TrainingError, match="model_type = 'llama', but model_type = 'of_tomorrow'"):
        check_model(llama_8b, {"model_type": "of_tomorrow"}, "models/x")


def test_all_differences_are_named_at_once():
    with pytest.raises(TrainingError, match="num_layers = 2, but num_hidden_layers = 32; num_heads = 4, but"):
        check_model(dataclasses.replace(llama_8b, num_layers=2, num_heads=4, num_kv_heads=4), LLAMA_3_1_8B, "x")


def test_a_model_of_another_shape_is_not_loaded(base_model):
    with pytest.raises(
        TrainingError, match="differs from that of the base model .*num_layers = 32, but num_hidden_layers = 2"
    ):
        load_model(base_model, expected=dataclasses.replace(qwen3_14b, num_layers=32))
