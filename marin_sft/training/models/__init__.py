"""Models: their shapes, and the way from a Hugging Face directory to a Levanter model and back.

    shapes          the shape of a model, as light values
    families        which models can be trained, by their `config.json`
    architectures   a `config.json` -> a Levanter config (gemma: some of those); levanter_configs: back to a shape
    rope_scaling    positions beyond those that a model was made for; rotary: YaRN
    model_directory reads and writes a model's directory. Its parts:
                    model_config, stored_tensors, generation (which tokens end an answer), peft_directory (an adapter)
    tensor_names    what Levanter calls the tensors
    levanter_model  a directory -> a model on the devices, and back
    model_check     whether a downloaded model is what the experiment says
    random_model    the step: a model with random weights
    new_tokens      the step: a model with more tokens; reinit: new embeddings for named tokens
    lora            low-rank adapters in a model; adapted_weights: base and adapter merged
    token_rows      tokens that an adapter trains (trained_tokens: which)

Importing this package loads no JAX.
"""

from marin_sft.training.models.shapes import (
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Qwen3Config,
    QwenConfig,
)

__all__ = ["GemmaConfig", "LlamaConfig", "MistralConfig", "Olmo2Config", "Qwen3Config", "QwenConfig"]
