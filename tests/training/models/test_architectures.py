"""Each family: tiny weights saved by transformers -> loaded by us -> the same numbers -> written -> loaded by it."""

import json
from pathlib import Path

import haliax as hax
import numpy as np
import pytest
import torch
import transformers

from marin_sft.errors import TrainingError
from marin_sft.training.attention.packed import configs_of
from marin_sft.training.fakes import pack
from marin_sft.training.loss import LossBatch, loss_arrays, nll
from marin_sft.training.models import levanter_model
from marin_sft.training.models.architectures import levanter_config
from marin_sft.training.models.device_tensors import DeviceTensors
from marin_sft.training.models.families import FAMILIES
from marin_sft.training.models.model_config import with_older_fields
from marin_sft.training.models.model_directory import ModelDirectory, write_json, write_tensors
from marin_sft.training.models.tensor_names import names_of

IDS = np.random.default_rng(0).integers(0, 50, (2, 20)).astype(np.int32)
SIZES = dict(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
WINDOW = 8  # below the 20 tokens of IDS
LLAMA3_ROPE = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
LINEAR_ROPE = dict(rope_type="linear", factor=4.0)
YARN_ROPE = dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=8)
LONG = {**SIZES, "rope_scaling": YARN_ROPE}
MODELS = {
    "llama": transformers.LlamaConfig(**SIZES, rope_theta=3000.0),
    "llama, tied": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama, head size of its own": transformers.LlamaConfig(**SIZES, head_dim=16),
    "llama, linear rope": transformers.LlamaConfig(**SIZES, rope_scaling=LINEAR_ROPE),
    "llama 3": transformers.LlamaConfig(**SIZES, rope_theta=500000.0, rope_scaling=LLAMA3_ROPE),
    "llama, dynamic rope": transformers.LlamaConfig(**SIZES, rope_scaling=dict(rope_type="dynamic", factor=4.0)),
    "llama, yarn": transformers.LlamaConfig(**LONG),
    "mistral": transformers.MistralConfig(**SIZES, sliding_window=None, head_dim=16),
    "mistral, window": transformers.MistralConfig(**SIZES, sliding_window=WINDOW),
    "qwen2": transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2, untied": transformers.Qwen2Config(**SIZES),
    "qwen2, yarn": transformers.Qwen2Config(**LONG),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=16),
    "qwen3, yarn": transformers.Qwen3Config(**LONG, head_dim=16, rope_theta=1e6),
    "gemma": transformers.GemmaConfig(**SIZES, head_dim=16),
    "gemma, another activation": transformers.GemmaConfig(**SIZES, head_dim=16, hidden_act="silu"),
    "gemma2": transformers.Gemma2Config(
        **SIZES, head_dim=16, sliding_window=WINDOW, query_pre_attn_scalar=24, attn_logit_softcapping=5.0
    ),
    "gemma3": transformers.Gemma3TextConfig(
        **SIZES, head_dim=16, sliding_window=WINDOW, sliding_window_pattern=2, rope_scaling=LINEAR_ROPE
    ),
    "gemma3, yarn": transformers.Gemma3TextConfig(**LONG, head_dim=16, sliding_window=WINDOW, sliding_window_pattern=2),
    "olmo2": transformers.Olmo2Config(**SIZES),
    "olmo3": transformers.Olmo3Config(
        **SIZES, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "olmo3, yarn": transformers.Olmo3Config(
        **LONG, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "olmo3, all layers alike": transformers.Olmo3Config(
        **SIZES, sliding_window=WINDOW, layer_types=["full_attention"] * 3
    ),
}


def saved(config, path: Path):
    torch.manual_seed(0)
    config._attn_implementation = "eager"  # the only one with Gemma 2's soft cap
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too: at their initial 1 and 0 they hide mistakes
            parameter.normal_(0.0, 0.2)
    model.save_pretrained(path)
    return model


def logits_of(model, ids=IDS) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(ids).long()).logits.numpy()


@pytest.fixture(scope="module", params=MODELS)
def both(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    theirs = saved(MODELS[request.param], path)
    return path, theirs, levanter_model.load_model(str(path))


def test_logits_are_those_of_transformers(both):
    _, theirs, ours = both
    np.testing.assert_allclose(levanter_model.logits(ours, IDS), logits_of(theirs), atol=2e-5)


def test_loss_of_packed_documents_is_that_of_transformers(both):
    _, theirs, ours = both
    documents = [IDS[0].tolist(), IDS[1, :13].tolist()]
    batch = {name: hax.named(a, ("batch", "position")) for name, a in loss_arrays(pack([documents], 40)).items()}
    log_probs = []
    for ids in documents:
        table = torch.log_softmax(torch.tensor(logits_of(theirs, np.array([ids]))[0]), -1)
        log_probs += [table[i, token].item() for i, token in enumerate(ids[1:])]
    assert float(nll(ours, LossBatch(**batch))) == pytest.approx(-np.mean(log_probs), abs=1e-5)


def test_what_we_write_transformers_loads_as_the_same_model(both, tmp_path):
    path, theirs, ours = both
    tensors, again = dict(ModelDirectory(path).tensors()), levanter_model.model_tensors(ours)
    assert tensors.keys() == again.keys()
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)
    one_by_one = DeviceTensors(ours, names_of(str(path)))
    assert one_by_one.shapes() == {name: tensor.shape for name, tensor in tensors.items()}
    assert all(np.array_equal(tensors[name], one_by_one[name]) for name in tensors)
    write_json(str(tmp_path), "config.json", ModelDirectory(path).config)
    write_tensors(str(tmp_path), again, max_shard_bytes=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert np.array_equal(logits_of(reloaded), logits_of(theirs))
    from_shards = levanter_model.load_model(str(tmp_path))
    np.testing.assert_array_equal(levanter_model.logits(from_shards, IDS), levanter_model.logits(ours, IDS))


def as_transformers_5(config: dict) -> dict:
    """The config as transformers 5.23 writes it: all of rotary embeddings in one field, by type of layer for some."""
    config = dict(config)
    rope = {"rope_theta": config.pop("rope_theta"), "rope_type": "default", **(config.pop("rope_scaling", None) or {})}
    local = config.pop("rope_local_base_freq", rope["rope_theta"])
    if config["model_type"] in ("gemma3_text", "olmo3"):
        sliding = {"rope_theta": local, "rope_type": "default"}
        rope = {"full_attention": rope, "sliding_attention": sliding}
    return {**config, "rope_parameters": rope, "dtype": config.pop("torch_dtype", "float32")}


def test_configs_of_transformers_5_say_the_same(both, tmp_path):
    path, _, _ = both
    config = json.loads((path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(as_transformers_5(config)))
    assert levanter_config(ModelDirectory(tmp_path).config) == levanter_config(config)


def test_the_gelu_of_a_gemma_1_is_the_approximation(tmp_path):
    """Its publishers' slip, as transformers 5 and servers say; transformers 4 takes the field at its word."""
    saved(MODELS["gemma"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    assert levanter_config(ModelDirectory(tmp_path).config) == levanter_config(config)


def test_the_kernels_know_the_attention_of_every_family(both):
    _, _, ours = both
    assert configs_of(ours)


def test_every_family_is_in_the_table():
    assert {config.model_type for config in MODELS.values()} == set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("qwen3", {"model_type": "gpt2"}, "model_type 'gpt2': expected one of llama, mistral, qwen2"),
        ("qwen3", {"model_type": "qwen3_moe"}, "model_type 'qwen3_moe'"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "longrope"}},
            "rope_scaling of type 'longrope': expected one of default",
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "yarn"}},
            "rope_scaling = {'rope_type': 'yarn'}: expected numbers for f",
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "expected numbers for low_freq_factor, high",
        ),
        ("olmo2", {"rope_scaling": LINEAR_ROPE}, "of type 'linear': transformers does not read it for OLMo 2"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window = True: expected False"),
        ("llama", {"attention_bias": True}, "attention_bias = True"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config = .*expected None"),
        ("gemma3", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping = 5.0: transformers does not read it"),
        ("olmo3", {"rope_local_base_freq": 7.0}, "rope_theta 7.0 for sliding layers"),
        ("llama", {"hidden_act": "gelu_10"}, "hidden_act 'gelu_10': expected one of .*silu"),
    ],
)
def test_what_we_would_compute_otherwise_is_refused(name, change, message):
    with pytest.raises(TrainingError, match=message):
        levanter_config({**MODELS[name].to_dict(), **change})


def test_two_kinds_of_rope_scaling_are_refused():
    """transformers 4 reads `type`."""
    with pytest.raises(TrainingError, match="the type and others the rope_type; delete the wrong one"):
        with_older_fields({"rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 2.0}}, "config.json")
    same = {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}}
    assert with_older_fields(same, "config.json") == {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
