import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers

from marin_sft.errors import TrainingError
from marin_sft.training import hf_directory, levanter_model

IDS = np.random.default_rng(0).integers(0, 50, (2, 20)).astype(np.int32)
SIZES = dict(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
MODELS = {
    "llama": transformers.LlamaConfig(**SIZES, rope_theta=3000.0),
    "llama with a head size of its own": transformers.LlamaConfig(**SIZES, head_dim=16),
    "llama 3": transformers.LlamaConfig(**SIZES, rope_theta=500000.0, rope_scaling=LLAMA3_ROPE),
    "qwen2": transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=16),
}


def saved(config, path: Path):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too: at their initial 1 and 0 they hide mistakes
            parameter.normal_(0.0, 0.2)
    model.save_pretrained(path)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_tensors_are_those_of_transformers(name, tmp_path):
    theirs = saved(MODELS[name], tmp_path)
    ours = levanter_model.load_model(str(tmp_path))
    expected = theirs(torch.tensor(IDS).long()).logits.detach().numpy()
    np.testing.assert_allclose(levanter_model.logits(ours, IDS), expected, atol=2e-4)
    tensors, again = hf_directory.read_tensors(str(tmp_path)), levanter_model.model_tensors(ours)
    assert tensors.keys() == again.keys()
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)


def test_rope_parameters_of_transformers_5_are_read(tmp_path):
    theirs = saved(MODELS["llama 3"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    rope = {**config.pop("rope_scaling"), "rope_theta": config.pop("rope_theta")}
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    got = levanter_model.logits(levanter_model.load_model(str(tmp_path)), IDS)
    np.testing.assert_allclose(got, theirs(torch.tensor(IDS).long()).logits.detach().numpy(), atol=2e-4)


def test_tensors_that_do_not_belong_are_named(tmp_path):
    saved(transformers.LlamaConfig(**SIZES, attention_bias=True), tmp_path)
    with pytest.raises(TrainingError, match=r"8 tensors not part of the model, e.g. model.layers.0.self_attn.k_proj"):
        levanter_model.load_model(str(tmp_path))
    tensors = {name: t for name, t in hf_directory.read_tensors(str(tmp_path)).items() if not name.endswith("bias")}
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:3]
    del tensors["lm_head.weight"]
    hf_directory.write_tensors(str(tmp_path), tensors)
    with pytest.raises(TrainingError, match=r"1 tensors missing, e.g. lm_head.*of another shape, e.g. model.norm"):
        levanter_model.load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2': expected one of llama, qwen2, qwen3"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling of type 'yarn'"),
        ({"use_sliding_window": True}, "sliding windows are not supported"),
    ],
)
def test_what_we_would_compute_otherwise_is_refused(change, message):
    config = {**MODELS["qwen3"].to_dict(), **change}
    with pytest.raises(TrainingError, match=message):
        levanter_model.levanter_config(config)


def test_shards_and_bfloat16_round_trip(tmp_path):
    tensors = {f"t{i}": np.full((4, 3), i, ml_dtypes.bfloat16).T for i in range(5)}
    hf_directory.write_tensors(str(tmp_path), tensors, max_shard_bytes=50)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    got = hf_directory.read_tensors(str(tmp_path))
    assert all(got[name].dtype == t.dtype and np.array_equal(got[name], t) for name, t in tensors.items())


def test_a_hub_id_or_an_empty_directory_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="no model directory at 'org/model'.*download step"):
        levanter_model.load_model("org/model")
    with pytest.raises(TrainingError, match="no config.json"):
        levanter_model.load_model(str(tmp_path))


def test_planning_imports_are_light():
    modules = "training.sft, training.models, training.random_model, export.hf, evaluation.generate"
    imports = "import " + ", ".join(f"marin_sft.{name.strip()}" for name in modules.split(","))
    heavy = "{'jax', 'levanter', 'haliax', 'transformers', 'torch', 'numpy', 'ray'}"
    code = f"import sys; {imports}; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
