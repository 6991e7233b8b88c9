"""Qwen 2.5 and 3 shapes as published, and the hub ids of their tokenizers. Light values, see `llama.py`."""

from marin_sft.training.models import Qwen3Config, QwenConfig

qwen3_tokenizer = "Qwen/Qwen3-14B"
"""All Qwen 3 models share one vocabulary and chat template."""

qwen2_5_1_5b_tokenizer = "Qwen/Qwen2.5-1.5B"

qwen2_5_1_5b = QwenConfig(
    max_seq_len=4096,
    hidden_dim=1536,
    intermediate_dim=8960,
    num_heads=12,
    num_kv_heads=2,
    num_layers=28,
    tie_word_embeddings=True,
)

qwen3_30m = Qwen3Config(
    max_seq_len=1024,
    hidden_dim=128,
    intermediate_dim=448,
    num_heads=2,
    num_kv_heads=2,
    num_layers=4,
    tie_word_embeddings=False,
)

qwen3_0_6b = Qwen3Config(
    max_seq_len=4096,
    hidden_dim=1024,
    intermediate_dim=3072,
    num_heads=16,
    num_kv_heads=8,
    num_layers=28,
    head_dim=128,
)

qwen3_1_7b = Qwen3Config(
    max_seq_len=4096,
    hidden_dim=2048,
    intermediate_dim=6144,
    num_heads=16,
    num_kv_heads=8,
    num_layers=28,
    head_dim=128,
)

qwen3_4b = Qwen3Config(
    max_seq_len=4096,
    hidden_dim=2560,
    intermediate_dim=9728,
    num_heads=32,
    num_kv_heads=8,
    num_layers=36,
    head_dim=128,
)

qwen3_8b = Qwen3Config(
    max_seq_len=4096,
    hidden_dim=4096,
    intermediate_dim=12288,
    num_heads=32,
    num_kv_heads=8,
    num_layers=36,
    head_dim=128,
    tie_word_embeddings=False,
)

qwen3_14b = Qwen3Config(
    max_seq_len=4096,
    hidden_dim=5120,
    intermediate_dim=17408,
    num_heads=40,
    num_kv_heads=8,
    num_layers=40,
    head_dim=128,
    tie_word_embeddings=False,
)

qwen3_32b = Qwen3Config(
    max_seq_len=4096,
    hidden_dim=5120,
    intermediate_dim=25600,
    num_heads=64,
    num_kv_heads=8,
    num_layers=64,
    head_dim=128,
    tie_word_embeddings=False,
)
