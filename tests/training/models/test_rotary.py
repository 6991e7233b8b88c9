"""Rotary positions against transformers, at positions as far apart as in long documents."""

import haliax as hax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from levanter.layers.attention import AttentionMask
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from marin_sft.training.models import levanter_model
from marin_sft.training.models.architectures import levanter_config

LONGEST = 131072
SIZES = dict(vocab_size=50, hidden_size=128, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
SIZES |= dict(num_key_value_heads=1, max_position_embeddings=LONGEST, pad_token_id=0, bos_token_id=1, eos_token_id=2)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA_3 |= {"original_max_position_embeddings": 8192}
ROPES = {
    "default": {},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "llama 3": {"rope_scaling": LLAMA_3, "rope_theta": 5e5},
    "yarn of Qwen's cards": {"rope_scaling": YARN, "rope_theta": 1e6},
    "yarn of OLMo 3": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "attention_factor": 1.2079441541679836,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
        },
        "rope_theta": 5e5,
    },
    "another attention factor": {"rope_scaling": {**YARN, "attention_factor": 0.7}},
    "an attention factor of 0": {"rope_scaling": {**YARN, "attention_factor": 0.0}},
    "both scales": {"rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.2}},
    "one scale, which counts for nothing": {"rope_scaling": {**YARN, "mscale": 0.707}},
    "other betas": {"rope_scaling": {**YARN, "beta_fast": 16.0, "beta_slow": 2.5}},
    "not truncated": {"rope_scaling": {**YARN, "truncate": False}},
    "equal betas": {"rope_scaling": {**YARN, "beta_fast": 4.0, "beta_slow": 4.0, "truncate": False}},
    "nothing else": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "no factor": {"rope_scaling": {**YARN, "factor": 1.0}},
    "a small base": {"rope_scaling": YARN, "rope_theta": 300.0},
    "not a whole factor": {"rope_scaling": {**YARN, "factor": 2.5}, "rope_theta": 12345.0},
}


def of_llama(rope: dict) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(**SIZES, **rope)


def rotated(rope: dict, positions: np.ndarray, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Vectors at `positions`, turned by us and by transformers."""
    config = of_llama(rope)
    vectors = np.random.default_rng(0).normal(size=(len(positions), 64)).astype(np.float32)
    x = torch.tensor(vectors, dtype=getattr(torch, dtype))[None, None]
    theirs, _ = apply_rotary_pos_emb(x, x, *LlamaRotaryEmbedding(config)(x, torch.tensor(positions)[None]))
    size = hax.Axis("head_size", 64)
    embeddings = levanter_config(config.to_dict()).rope.build(size)
    q = hax.named(jnp.asarray(vectors, dtype), ("position", size))
    ours = embeddings(q, hax.named(jnp.asarray(positions), "position")).array
    return np.asarray(ours, np.float32), theirs[0, 0].float().numpy()


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_vectors_are_turned_as_in_transformers(rope):
    """A float32 frequency is rounded by up to 1e-7 of it, which makes 0.01 rad at the last position."""
    ours, theirs = rotated(rope, np.arange(64))
    np.testing.assert_allclose(ours, theirs, atol=5e-5)
    ours, theirs = rotated(rope, np.arange(0, LONGEST, 97))
    np.testing.assert_allclose(ours, theirs, atol=0.1)


def test_bfloat16_is_rounded_once():
    ours, theirs = rotated(ROPES["yarn of OLMo 3"], np.arange(64), "bfloat16")
    np.testing.assert_array_equal(ours, theirs)


def logits_of_both(config: transformers.PretrainedConfig, path) -> tuple[np.ndarray, np.ndarray]:
    """Ours and those of transformers, for 64 tokens over all positions up to `LONGEST`."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    model.save_pretrained(path)
    ids = np.random.default_rng(0).integers(0, 50, (1, 64))
    positions = np.linspace(0, LONGEST - 1, 64).astype(np.int32)[None]
    given = {"position_ids": torch.tensor(positions).long(), "attention_mask": torch.ones(1, 64)}
    with torch.no_grad():
        theirs = model(torch.tensor(ids), **given).logits.numpy()
    tokens, at = (hax.named(jnp.asarray(array), ("batch", "position")) for array in (ids, positions))
    found = levanter_model.load_model(str(path))(tokens, attn_mask=AttentionMask.causal(), pos_ids=at)
    return np.asarray(found.rearrange(("batch", "position", "vocab")).array), theirs


LONG = {
    "llama 3": of_llama(ROPES["llama 3"]),
    "qwen 2": transformers.Qwen2Config(**SIZES, **ROPES["yarn of Qwen's cards"]),
    "qwen 3": transformers.Qwen3Config(**SIZES, head_dim=64, **ROPES["yarn of Qwen's cards"]),
    "olmo 3": transformers.Olmo3Config(**SIZES, sliding_window=8, **ROPES["yarn of OLMo 3"]),
}


@pytest.mark.parametrize("config", LONG.values(), ids=LONG)
def test_logits_of_long_documents_are_those_of_transformers(config, tmp_path):
    ours, theirs = logits_of_both(config, tmp_path)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
