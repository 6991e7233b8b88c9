"""Llama shapes from small to large, and the hub ids of their tokenizers. Names as in Marin.

Light values. An experiment that trains a downloaded model takes the architecture from that model's config.json.
"""

from marin_sft.training.models import LlamaConfig

llama3_tokenizer = "meta-llama/Meta-Llama-3.1-8B"
llama3_tokenizer_vocab_size = 128_256
llama3_instruct_tokenizer = "meta-llama/Meta-Llama-3.1-8B-Instruct"
llama_3_1_8b_tokenizer = "meta-llama/Llama-3.1-8B"
llama_3_1_8b_instruct_tokenizer = "meta-llama/Llama-3.1-8B-Instruct"
marin_tokenizer = "marin-community/marin-tokenizer"
"""Llama 3's tokenizer with a chat template that marks the assistant's turns, and `<|start_think|>`, `<|end_think|>`."""

LLAMA_3_ROPE_THETA = 500_000.0

llama_nano = LlamaConfig(
    max_seq_len=512, hidden_dim=32, intermediate_dim=128, num_heads=2, num_kv_heads=2, num_layers=2
)

llama_30m = LlamaConfig(
    max_seq_len=1024, hidden_dim=128, intermediate_dim=448, num_heads=2, num_kv_heads=2, num_layers=4
)

llama_50m = LlamaConfig(
    max_seq_len=1024, hidden_dim=192, intermediate_dim=448, num_heads=2, num_kv_heads=2, num_layers=4
)

llama_75m = LlamaConfig(
    max_seq_len=1024, hidden_dim=256, intermediate_dim=896, num_heads=4, num_kv_heads=4, num_layers=8
)

llama_150m = LlamaConfig(
    max_seq_len=1024, hidden_dim=512, intermediate_dim=1792, num_heads=8, num_kv_heads=8, num_layers=6
)

llama_300m = LlamaConfig(
    max_seq_len=1024, hidden_dim=768, intermediate_dim=2688, num_heads=12, num_kv_heads=12, num_layers=12
)

llama_600m = LlamaConfig(
    max_seq_len=1024, hidden_dim=1024, intermediate_dim=3584, num_heads=16, num_kv_heads=8, num_layers=24
)

llama_1_4b = LlamaConfig(
    max_seq_len=4096, hidden_dim=2048, intermediate_dim=7168, num_heads=16, num_kv_heads=8, num_layers=16
)

llama_1_9b = LlamaConfig(
    max_seq_len=4096, hidden_dim=2048, intermediate_dim=7168, num_heads=16, num_kv_heads=8, num_layers=24
)

llama_3_5b = LlamaConfig(
    max_seq_len=4096, hidden_dim=2560, intermediate_dim=8960, num_heads=20, num_kv_heads=10, num_layers=32
)

llama_3_2_1b = LlamaConfig(
    max_seq_len=4096,
    hidden_dim=2048,
    intermediate_dim=8192,
    num_heads=32,
    num_kv_heads=8,
    num_layers=16,
    rope_theta=LLAMA_3_ROPE_THETA,
    tie_word_embeddings=True,
)

llama_8b = LlamaConfig(
    max_seq_len=4096,
    hidden_dim=4096,
    intermediate_dim=14336,
    num_heads=32,
    num_kv_heads=8,
    num_layers=32,
    rope_theta=LLAMA_3_ROPE_THETA,
)

llama_3_1_8b = llama_3_1_8b_instruct = llama_8b

llama_13b = LlamaConfig(
    max_seq_len=4096,
    hidden_dim=5120,
    intermediate_dim=13824,
    num_heads=40,
    num_kv_heads=8,
    num_layers=40,
    rope_theta=LLAMA_3_ROPE_THETA,
)

llama_70b = LlamaConfig(
    max_seq_len=4096,
    hidden_dim=8192,
    intermediate_dim=28672,
    num_heads=64,
    num_kv_heads=8,
    num_layers=80,
    rope_theta=LLAMA_3_ROPE_THETA,
)
