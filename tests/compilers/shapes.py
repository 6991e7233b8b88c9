"""Layers of published models, two of each: the fields of their config.json that shapes and kernels depend on."""

from typing import Any

from marin_sft.training.models.model_config import Fields


def _model(
    kind: str, vocabulary: int, hidden: int, mlp: int, heads: int, kv_heads: int, size: int, **more: Any
) -> Fields:
    """size: of a head."""
    return {
        "model_type": kind,
        "architectures": ["unused"],
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        **more,
    }


_GEMMA = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}
_GEMMA_2 = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 256}
MODELS = {
    "llama_3_8b": _model("llama", 128_256, 4096, 14_336, 32, 8, 128),
    "mistral_7b": _model("mistral", 32_000, 4096, 14_336, 32, 8, 128, sliding_window=4096),
    "qwen2_7b": _model("qwen2", 152_064, 3584, 18_944, 28, 4, 128),
    "qwen3_8b": _model("qwen3", 151_936, 4096, 12_288, 32, 8, 128, attention_bias=False),
    "gemma_2b": _model("gemma", 256_000, 2048, 16_384, 8, 1, 256, **_GEMMA),
    "gemma2_2b": _model("gemma2", 256_000, 2304, 9216, 8, 4, 256, sliding_window=4096, **_GEMMA, **_GEMMA_2),
    "gemma3_1b": _model("gemma3_text", 262_144, 1152, 6912, 4, 1, 256, sliding_window=512, query_pre_attn_scalar=256,
                        layer_types=["sliding_attention", "full_attention"], rope_local_base_freq=10_000.0, **_GEMMA),
    "olmo2_7b": _model("olmo2", 100_352, 4096, 11_008, 32, 32, 128, attention_bias=False),
    "olmo3_7b": _model("olmo3", 100_278, 4096, 11_008, 32, 32, 128, attention_bias=False, sliding_window=4096,
                       layer_types=["sliding_attention", "full_attention"]),
}  # fmt: skip
