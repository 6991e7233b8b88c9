import pytest
from levanter.layers.rotary import DefaultRotaryEmbeddingsConfig, Llama3RotaryEmbeddingsConfig
from levanter.models.llama import LlamaConfig as LevanterLlama
from levanter.models.mistral import MistralConfig
from levanter.models.qwen import Qwen3Config as LevanterQwen3

from experiments.llama import llama_8b
from experiments.qwen3 import qwen3_14b
from marin_sft.errors import ConfigError
from marin_sft.training.models.levanter_configs import from_levanter

LLAMA_8B = {
    "max_seq_len": 4096, "hidden_dim": 4096, "intermediate_dim": 14336, "num_heads": 32, "num_kv_heads": 8,
    "num_layers": 32, "rope": Llama3RotaryEmbeddingsConfig(),
}  # fmt: skip


def test_ours_stay_as_they_are():
    assert from_levanter(llama_8b) is llama_8b


def test_llama():
    assert from_levanter(LevanterLlama(**LLAMA_8B), scaled_rope=True) == llama_8b
    # How it is computed is not carried over, and does not matter.
    computed = LevanterLlama(**LLAMA_8B, gradient_checkpointing=False, scan_layers=False)
    assert from_levanter(computed, scaled_rope=True) == llama_8b


def test_qwen3():
    shape = {"max_seq_len": 4096, "hidden_dim": 5120, "intermediate_dim": 17408, "num_heads": 40, "num_kv_heads": 8}
    rope = DefaultRotaryEmbeddingsConfig(theta=1000000.0)
    levanter = LevanterQwen3(**shape, num_layers=40, head_dim=128, layer_norm_epsilon=1e-6, rope=rope)
    assert from_levanter(levanter) == qwen3_14b


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (LevanterLlama(**LLAMA_8B, use_bias=True), "'use_bias': True.* cannot be carried over to our LlamaConfig"),
        (LevanterLlama(**LLAMA_8B, hybrid_norm=True), "'hybrid_norm': True"),
        (LevanterLlama(**LLAMA_8B), "scaled rotary positions cannot be carried over to our LlamaConfig"),
        (MistralConfig(), "expected one of LlamaConfig, Qwen3Config, from marin_sft.recipes"),
        ("llama_8b", "model_config='llama_8b'; expected one of"),
    ],
)
def test_what_we_cannot_say_is_refused(given, reason):
    with pytest.raises(ConfigError, match=reason):
        from_levanter(given)
