"""The shape of a model, as light values for planning.

`hf_config(...)` gives the architecture part of a `config.json`. Training builds models from a `config.json` only, so
random and downloaded weights take the same path from shape to model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from marin_sft.arguments import NamedFields
from marin_sft.training.checks import require, unresolved
from marin_sft.training.models.model_config import Fields


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(metaclass=NamedFields):
    """A Llama: RMS norm, rotary positions, grouped-query attention, gated SiLU MLP.

    max_seq_len: the longest sequence, in tokens.
    head_dim: None for `hidden_dim // num_heads`.

    Raises:
        ConfigError: a size is not positive, or does not divide another one that it must divide.
    """

    model_type: ClassVar[str] = "llama"
    architecture: ClassVar[str] = "LlamaForCausalLM"

    max_seq_len: int
    hidden_dim: int
    intermediate_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int | None = None
    rope_theta: float = 10000.0
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        for name in ("max_seq_len", "hidden_dim", "intermediate_dim", "num_layers", "num_heads", "num_kv_heads"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "num_heads", self.num_heads % self.num_kv_heads == 0, f"a multiple of {self.num_kv_heads=}")
        if self.head_dim is None:
            require(self, "hidden_dim", self.hidden_dim % self.num_heads == 0, f"a multiple of {self.num_heads=}")
        require(self, "head_size", self.head_size % 2 == 0, "an even number: rotary positions come in pairs")

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_dim // self.num_heads

    def hf_config(self, vocab_size: int) -> Fields:
        """The architecture fields of a `config.json`, for float32 weights."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "attention_bias": False,
            "head_dim": self.head_size,
            "hidden_act": "silu",
            "hidden_size": self.hidden_dim,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_dim,
            "max_position_embeddings": self.max_seq_len,
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": self.layer_norm_epsilon,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": "float32",
            "use_cache": True,
            "vocab_size": vocab_size,
        }


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(LlamaConfig):
    """A Qwen 3: a Llama with normalised queries and keys, and an independent head size."""

    model_type: ClassVar[str] = "qwen3"
    architecture: ClassVar[str] = "Qwen3ForCausalLM"

    rope_theta: float = 1000000.0
    layer_norm_epsilon: float = 1e-6
    tie_word_embeddings: bool = True


@dataclass(frozen=True, kw_only=True)
class QwenConfig(LlamaConfig):
    """A Qwen 2 or 2.5: a Llama whose queries, keys and values have biases."""

    model_type: ClassVar[str] = "qwen2"
    architecture: ClassVar[str] = "Qwen2ForCausalLM"

    rope_theta: float = 1000000.0
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not unresolved(self):
            divides = self.head_size * self.num_heads == self.hidden_dim
            require(self, "head_dim", divides, f"None or {self.hidden_dim=} // {self.num_heads=}: Qwen 2 has no other")


@dataclass(frozen=True, kw_only=True)
class MistralConfig(LlamaConfig):
    """A Mistral: a Llama whose tokens see the last `sliding_window` tokens, including themselves. None: all tokens."""

    model_type: ClassVar[str] = "mistral"
    architecture: ClassVar[str] = "MistralForCausalLM"

    sliding_window: int | None = None

    def hf_config(self, vocab_size: int) -> Fields:
        return {**super().hf_config(vocab_size), "sliding_window": self.sliding_window}


@dataclass(frozen=True, kw_only=True)
class GemmaConfig(LlamaConfig):
    """A Gemma 1: a Llama with scaled embeddings, norms that multiply by 1 + weight, and a gated GELU MLP."""

    model_type: ClassVar[str] = "gemma"
    architecture: ClassVar[str] = "GemmaForCausalLM"

    layer_norm_epsilon: float = 1e-6
    tie_word_embeddings: bool = True

    def hf_config(self, vocab_size: int) -> Fields:
        return {**super().hf_config(vocab_size), "hidden_act": "gelu_pytorch_tanh"}


@dataclass(frozen=True, kw_only=True)
class Olmo2Config(LlamaConfig):
    """An OLMo 2: a Llama with norms after attention and MLP, and over all queries and keys."""

    model_type: ClassVar[str] = "olmo2"
    architecture: ClassVar[str] = "Olmo2ForCausalLM"

    rope_theta: float = 500000.0
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not unresolved(self):
            divides = self.head_size * self.num_heads == self.hidden_dim
            require(self, "head_dim", divides, f"None or {self.hidden_dim=} // {self.num_heads=}: OLMo 2 has no other")
