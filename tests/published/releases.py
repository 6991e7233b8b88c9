"""Model directories as people publish them, small and with random weights: the fields of config.json and
generation_config.json are those of the models named, but for sizes and ids; so are the forms of tokenizer and weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.published import tiny_tokenizers

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
WINDOW = 8
LAYERS = ["sliding_attention", "full_attention"]
TOOLS = "{% for tool in tools %}{{ tool.name }}{% endfor %}"
"""Put before a template, makes it another one."""


@dataclass(frozen=True)
class Release:
    """`config`, `generation`: fields of the two files; None for no file. Ids are given as tokens.

    sizes: instead of SIZES; None: the field is left out. tokenizer, template: of `tiny_tokenizers`. tokenizer_files:
    the form of its files, see `_FORMS`. beyond: tokens of the tokenizer that have no row in the embeddings.
    shard_bytes: of a file of weights. extra: tensors stored though the model has no use for them, by shape.
    sentencepiece: tokenizer.model, which nothing that reads tokenizer.json looks into.
    """

    config: Mapping[str, Any]
    tokenizer: str
    template: str
    generation: Mapping[str, Any] | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_files: str = "template in the config"
    beyond: tuple[str, ...] = ()
    shard_bytes: int = 10**9
    extra: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sentencepiece: bytes | None = None


LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "initializer_range": 0.02}
LLAMA |= {"rms_norm_eps": 1e-5, "use_cache": True, "tie_word_embeddings": False}
LLAMA_2 = {**LLAMA, "bos_token_id": "<s>", "eos_token_id": "</s>", "pretraining_tp": 1, "rope_scaling": None}
LLAMA_3 = {**LLAMA, "bos_token_id": "<|begin_of_text|>", "attention_bias": False, "attention_dropout": 0.0}
LLAMA_3 |= {"mlp_bias": False, "pretraining_tp": 1, "rope_theta": 500000.0, "torch_dtype": "bfloat16"}
LLAMA_3_ENDS = ["<|end_of_text|>", "<|eot_id|>"]
LLAMA_3_ROPE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}
LLAMA_3_ROPE |= {"original_max_position_embeddings": 64}
QWEN = {"attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "rms_norm_eps": 1e-6}
QWEN |= {"bos_token_id": "<|endoftext|>", "eos_token_id": "<|im_end|>", "max_window_layers": 2, "use_cache": True}
QWEN |= {"rope_theta": 1000000.0, "torch_dtype": "bfloat16", "use_sliding_window": False}
QWEN_2 = {**QWEN, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN_SAMPLING = {"bos_token_id": "<|endoftext|>", "pad_token_id": "<|endoftext|>", "do_sample": True, "top_k": 20}
QWEN_SAMPLING |= {"eos_token_id": ["<|im_end|>", "<|endoftext|>"], "temperature": 0.7, "top_p": 0.8}
GEMMA_IDS = {"bos_token_id": "<bos>", "eos_token_id": "<eos>", "pad_token_id": "<pad>"}
GEMMA = {**GEMMA_IDS, "attention_bias": False, "attention_dropout": 0.0, "head_dim": 16, "rms_norm_eps": 1e-6}
GEMMA |= {"initializer_range": 0.02, "torch_dtype": "bfloat16", "use_cache": True}
GEMMA_ENDS = {**GEMMA_IDS, "eos_token_id": ["<eos>", "<end_of_turn>"]}
GEMMA_3: dict[str, Any] = {**GEMMA, **GEMMA_ENDS, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
GEMMA_3 |= {"attn_logit_softcapping": None, "final_logit_softcapping": None, "query_pre_attn_scalar": 16}
GEMMA_3 |= {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": WINDOW}
OLMO_2 = {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": False, "rms_norm_eps": 1e-6}
OLMO_2 |= {"attention_dropout": 0.0, "eos_token_id": "<|endoftext|>", "pad_token_id": "<|pad|>", "hidden_act": "silu"}
OLMO_2 |= {"initializer_range": 0.02, "rope_scaling": None, "rope_theta": 500000, "tie_word_embeddings": False}
OLMO_3 = {**OLMO_2, "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "layer_types": LAYERS}
OLMO_3 |= {"dtype": "bfloat16", "sliding_window": WINDOW, "transformers_version": "4.57.0"}
OLMO_3_ROPE: dict[str, Any] = {"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0}
OLMO_3_ROPE |= {"factor": 8.0, "original_max_position_embeddings": 32, "rope_type": "yarn"}

RELEASES = {
    "llama 1": Release(
        # The name of the class as the first converter wrote it; lengths under a name of its own.
        {
            **LLAMA,
            "architectures": ["LLaMAForCausalLM"],
            "bos_token_id": "<s>",
            "eos_token_id": "</s>",
            "pad_token_id": -1,
            "max_sequence_length": 2048,
            "torch_dtype": "float16",
            "transformers_version": "4.27.0.dev0",
        },
        "llama2",
        "zephyr",
        {"_from_model_config": True, "bos_token_id": "<s>", "eos_token_id": "</s>", "pad_token_id": -1},
        sizes={"num_key_value_heads": None, "max_position_embeddings": None},
        extra={f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": (4,) for layer in range(2)},
    ),
    "llama 2 chat": Release(
        {
            **LLAMA_2,
            "_name_or_path": "meta-llama/Llama-2-7b-chat-hf",
            "torch_dtype": "float16",
            "transformers_version": "4.32.0.dev0",
        },
        "llama2",
        "zephyr",
        # Sampling without do_sample: today's transformers would not save it.
        {
            "_from_model_config": True,
            "bos_token_id": "<s>",
            "eos_token_id": "</s>",
            "pad_token_id": "<unk>",
            "max_length": 4096,
            "temperature": 0.9,
            "top_p": 0.6,
            "transformers_version": "4.32.0.dev0",
        },
        sizes={"num_key_value_heads": 4},
        shard_bytes=10_000,
        sentencepiece=b"a SentencePiece model",
    ),
    "vicuna 16k": Release(
        {
            **LLAMA_2,
            "_name_or_path": "vicuna-7b-v1.5-16k",
            "rope_scaling": {"factor": 4.0, "type": "linear"},
            "max_sequence_length": 16384,
            "pad_token_id": "<unk>",
            "torch_dtype": "float16",
            "transformers_version": "4.31.0",
        },
        "llama2",
        "zephyr",
        # No greedy generation has a temperature, and this file is greedy and has one.
        {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": "</s>", "pad_token_id": "<unk>"},
    ),
    "llama 3.1 instruct": Release(
        {
            **LLAMA_3,
            "eos_token_id": LLAMA_3_ENDS,
            "rope_scaling": LLAMA_3_ROPE,
            "transformers_version": "4.42.3",
        },
        "llama3",
        "llama3",
        {
            "bos_token_id": "<|begin_of_text|>",
            "eos_token_id": LLAMA_3_ENDS,
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
            "transformers_version": "4.42.3",
        },
        shard_bytes=20_000,
    ),
    "llama 3.2, its tied head stored": Release(
        {
            **LLAMA_3,
            "eos_token_id": LLAMA_3_ENDS,
            "head_dim": 8,
            "rope_scaling": {**LLAMA_3_ROPE, "factor": 32.0},
            "tie_word_embeddings": True,
            "transformers_version": "4.45.0.dev0",
        },
        "llama3",
        "llama3",
        extra={"lm_head.weight": ()},
    ),
    "a fine-tune with notes in its config": Release(
        {
            **LLAMA_3,
            "_name_or_path": "/home/somebody/checkpoint-1200",
            "_attn_implementation_autoset": True,
            "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
            "eos_token_id": "<|end_of_text|>",
            "quantization_config": None,
            "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}},
            "transformers_version": "4.49.0",
            "unsloth_version": "2025.2.5",
            "use_cache": False,
        },
        "llama3",
        "llama3",
    ),
    "mistral 0.1": Release(
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "bos_token_id": "<s>",
            "eos_token_id": "</s>",
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "sliding_window": WINDOW,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.34.0.dev0",
            "use_cache": True,
        },
        "llama2",
        "mistral",
        {"_from_model_config": True, "bos_token_id": "<s>", "eos_token_id": "</s>"},
    ),
    "qwen 2.5 instruct": Release(
        {**QWEN_2, "sliding_window": 32768, "tie_word_embeddings": True, "transformers_version": "4.43.1"},
        "qwen",
        "qwen2_5",
        {**QWEN_SAMPLING, "repetition_penalty": 1.1, "transformers_version": "4.37.0"},
        tokenizer_files="vocabulary and merges",
    ),
    "hermes on qwen 2.5": Release(
        {
            **QWEN_2,
            "_name_or_path": "somebody/hermes",
            "sliding_window": 131072,
            "tie_word_embeddings": False,
            "transformers_version": "4.46.3",
            "use_mrope": False,
        },
        "qwen",
        "qwen2_5",
        tokenizer_files="templates in the config",
    ),
    "qwen 3": Release(
        {
            **QWEN,
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "head_dim": 16,
            "rope_scaling": None,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "transformers_version": "4.51.0",
        },
        "qwen",
        "qwen3",
        {**QWEN_SAMPLING, "temperature": 0.6, "top_p": 0.95, "transformers_version": "4.51.0"},
    ),
    "qwen 2.5, with the yarn of its card": Release(
        {
            **QWEN_2,
            "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 256, "type": "yarn"},
            "sliding_window": 131072,
            "tie_word_embeddings": False,
            "transformers_version": "4.43.1",
        },
        "qwen",
        "qwen2_5",
    ),
    "qwen 3, with the yarn of its card": Release(
        {
            **QWEN,
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "head_dim": 16,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 208},
            "sliding_window": None,
            "tie_word_embeddings": True,
            "transformers_version": "4.51.0",
        },
        "qwen",
        "qwen3",
    ),
    "gemma 1": Release(
        {
            **GEMMA,
            "architectures": ["GemmaForCausalLM"],
            "model_type": "gemma",
            "hidden_act": "gelu",
            "hidden_activation": None,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "transformers_version": "4.38.0.dev0",
        },
        "gemma",
        "gemma",
        {"_from_model_config": True, **GEMMA_IDS, "transformers_version": "4.38.0.dev0"},
    ),
    "gemma 2 it": Release(
        {
            **GEMMA,
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "attn_logit_softcapping": 50.0,
            "cache_implementation": "hybrid",
            "eos_token_id": ["<eos>", "<end_of_turn>"],
            "final_logit_softcapping": 30.0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 24,
            "rope_theta": 10000.0,
            "sliding_window": WINDOW,
            "sliding_window_size": WINDOW,
            "transformers_version": "4.42.4",
        },
        "gemma",
        "gemma",
        {"_from_model_config": True, **GEMMA_ENDS, "cache_implementation": "hybrid", "transformers_version": "4.42.4"},
    ),
    "gemma 3 it": Release(
        {
            **GEMMA_3,
            "cache_implementation": "hybrid",
            "rope_local_base_freq": 10000,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "rope_theta": 1000000,
            "sliding_window_pattern": 2,
            "transformers_version": "4.50.0.dev0",
        },
        "gemma",
        "gemma",
        {**GEMMA_ENDS, "cache_implementation": "hybrid", "do_sample": True, "top_k": 64, "top_p": 0.95},
        beyond=("<image_soft_token>",),
        tokenizer_files="template in a file",
    ),
    "gemma 3, on the way to transformers 5": Release(
        # Both forms of the rope fields, and the bases in the older ones alone.
        {
            **{name: value for name, value in GEMMA_3.items() if name != "torch_dtype"},
            "_sliding_window_pattern": 6,
            "dtype": "bfloat16",
            "layer_types": LAYERS,
            "rope_local_base_freq": 10000.0,
            "rope_parameters": {
                "full_attention": {"factor": 8.0, "rope_type": "linear"},
                "sliding_attention": {"rope_type": "default"},
            },
            "rope_theta": 1000000.0,
            "transformers_version": "4.57.3",
            "use_bidirectional_attention": False,
        },
        "gemma",
        "gemma",
        tokenizer_files="templates in files",
    ),
    "olmo 2": Release(
        {**OLMO_2, "torch_dtype": "bfloat16", "transformers_version": "4.47.0.dev0", "use_cache": True},
        "olmo",
        "chatml",
        {"_from_model_config": True, "eos_token_id": "<|endoftext|>", "pad_token_id": "<|pad|>"},
        sizes={"num_key_value_heads": 4},
    ),
    "olmo 3": Release(
        {
            **OLMO_3,
            "use_cache": False,
        },
        "olmo",
        "chatml",
        {"eos_token_id": ["<|im_end|>", "<|endoftext|>"], "do_sample": True, "temperature": 0.6, "top_p": 0.95},
        sizes={"num_key_value_heads": 4},
        tokenizer_files="template in a file",
    ),
    "olmo 3 think": Release(
        {
            **OLMO_3,
            "rope_scaling": OLMO_3_ROPE,
        },
        "olmo",
        "chatml",
        sizes={"num_key_value_heads": 4},
        tokenizer_files="template in a file",
    ),
    "olmo 3 think by transformers 5": Release(
        {
            **{name: OLMO_3[name] for name in OLMO_3 if name not in ("rope_theta", "rope_scaling")},
            "dtype": "float32",
            "rope_parameters": {
                "full_attention": {**OLMO_3_ROPE, "rope_theta": 500000.0},
                "sliding_attention": {"rope_theta": 500000.0, "rope_type": "default"},
            },
            "transformers_version": "5.0.0",
        },
        "olmo",
        "chatml",
        sizes={"num_key_value_heads": 4},
        tokenizer_files="template in a file",
    ),
    "llama 3.1 by transformers 5": Release(
        {
            **{name: LLAMA_3[name] for name in LLAMA_3 if name not in ("torch_dtype", "rope_theta")},
            "dtype": "bfloat16",
            "eos_token_id": LLAMA_3_ENDS,
            "head_dim": 8,
            "pad_token_id": None,
            "rope_parameters": {**LLAMA_3_ROPE, "rope_theta": 500000.0},
            "transformers_version": "5.1.0",
        },
        "llama3",
        "llama3",
        {"bos_token_id": "<|begin_of_text|>", "eos_token_id": LLAMA_3_ENDS, "transformers_version": "5.1.0"},
        tokenizer_files="template in a file",
    ),
    "olmo 3 by transformers 5": Release(
        {
            **{name: OLMO_3[name] for name in OLMO_3 if name not in ("rope_theta", "rope_scaling")},
            "dtype": "float32",
            "rope_parameters": {
                name: {"rope_theta": 500000.0, "rope_type": "default"} for name in ("full_attention", LAYERS[0])
            },
            "transformers_version": "5.0.0",
        },
        "olmo",
        "chatml",
        sizes={"num_key_value_heads": 4},
        tokenizer_files="template in a file",
    ),
}


def write(directory: Path, release: Release) -> Path:
    """The directory as its publishers would have filled it."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizers.with_template(getattr(tiny_tokenizers, release.tokenizer)(), release.template)
    vocab_size = -(-len(tokenizer) // 64) * 64  # most are rounded up
    if release.beyond:
        vocab_size = len(tokenizer)
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [*tokenizer.additional_special_tokens, *release.beyond]}
        )
    sizes = {name: size for name, size in {**SIZES, **release.sizes}.items() if size is not None}
    config = _with_ids({**sizes, "vocab_size": vocab_size, **release.config}, tokenizer)
    _write_json(directory / "config.json", config)
    if release.generation is not None:
        _write_json(directory / "generation_config.json", _with_ids(release.generation, tokenizer))
    tokenizer.save_pretrained(directory)
    _FORMS[release.tokenizer_files](directory, tokenizer)
    if release.sentencepiece is not None:
        (directory / "tokenizer.model").write_bytes(release.sentencepiece)
    _write_weights(directory, config, release)
    return directory


def _write_weights(directory: Path, config: dict[str, Any], release: Release) -> None:
    """Of the tensors that transformers gives the model of this config, in its type."""
    import ml_dtypes
    import numpy as np
    import torch
    import transformers

    from marin_sft.training.models.model_directory import ModelDirectory, write_tensors

    plain = ModelDirectory(directory).config  # transformers 4 alone would not know all of them
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**plain))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tied = shapes.pop("lm_head.weight")
    extra = {name: shape or tied for name, shape in release.extra.items()}
    random = np.random.default_rng(0)
    dtype = config.get("torch_dtype") or config.get("dtype") or "float32"
    numpy_type = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    # Norms too: at their initial values they hide mistakes.
    tensors = {n: random.normal(0, 0.2, shape).astype(numpy_type) for n, shape in {**shapes, **extra}.items()}
    write_tensors(str(directory), tensors, release.shard_bytes)


def _with_ids(fields: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    def id_of(token: Any) -> Any:
        if isinstance(token, list):
            return [id_of(each) for each in token]
        return tokenizer.get_vocab()[token] if isinstance(token, str) else token

    return {name: id_of(value) if name.endswith("_token_id") else value for name, value in fields.items()}


def _template_in_the_config(directory: Path, tokenizer: Any) -> None:
    """As before transformers 4.43 or so: no file of its own."""
    (directory / "chat_template.jinja").unlink()
    _edit(directory / "tokenizer_config.json", chat_template=tokenizer.chat_template)


def _templates_in_the_config(directory: Path, tokenizer: Any) -> None:
    """A list of them, by name."""
    (directory / "chat_template.jinja").unlink()
    texts = {"default": tokenizer.chat_template, "tool_use": TOOLS + tokenizer.chat_template}
    templates = [{"name": name, "template": text} for name, text in texts.items()]
    _edit(directory / "tokenizer_config.json", chat_template=templates)


def _templates_in_files(directory: Path, tokenizer: Any) -> None:
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool_use.jinja").write_text(TOOLS + tokenizer.chat_template)


def _vocabulary_and_merges(directory: Path, tokenizer: Any) -> None:
    """The files of the slow tokenizer, and the tokens that were added to it; no tokenizer.json."""
    _template_in_the_config(directory, tokenizer)
    (directory / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        (directory / name).unlink(missing_ok=True)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    added = {str(token): i for i, token in tokenizer.added_tokens_decoder.items()}
    _write_json(directory / "vocab.json", {token: i for token, i in model["vocab"].items() if token not in added})
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    _write_json(directory / "added_tokens.json", added)


_FORMS = {
    "template in the config": _template_in_the_config,
    "template in a file": lambda directory, tokenizer: None,
    "templates in the config": _templates_in_the_config,
    "templates in files": _templates_in_files,
    "vocabulary and merges": _vocabulary_and_merges,
}


def _edit(file: Path, **changes: Any) -> None:
    _write_json(file, {**json.loads(file.read_text(encoding="utf-8")), **changes})


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
