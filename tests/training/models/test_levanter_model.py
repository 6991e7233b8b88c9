import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import transformers

from marin_sft.errors import TrainingError
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_directory import ModelDirectory, write_tensors

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


def saved(config, path: Path):
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(path)
    return model


def test_tensors_that_do_not_belong_are_named(tmp_path):
    saved(transformers.LlamaConfig(**SIZES), tmp_path)
    tensors = dict(ModelDirectory(tmp_path).tensors())
    write_tensors(str(tmp_path), {**tensors, "model.layers.0.self_attn.q_proj.bias": np.zeros(32)})
    with pytest.raises(TrainingError, match=r"1 tensors not part of the model, e.g. model.layers.0.self_attn.q_proj"):
        levanter_model.load_model(str(tmp_path))
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:3]
    del tensors["lm_head.weight"]
    write_tensors(str(tmp_path), tensors)
    with pytest.raises(TrainingError, match=r"1 tensors missing, e.g. lm_head.*with another shape, e.g. model.norm"):
        levanter_model.load_model(str(tmp_path))


def test_shards_and_bfloat16_round_trip(tmp_path):
    tensors = {f"t{i}": np.full((4, 3), i, ml_dtypes.bfloat16).T for i in range(5)}
    write_tensors(str(tmp_path), tensors, max_shard_bytes=50)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    got = dict(ModelDirectory(tmp_path).tensors())
    assert all(got[name].dtype == t.dtype and np.array_equal(got[name], t) for name, t in tensors.items())


def test_other_formats_than_safetensors_are_refused_with_advice(tmp_path):
    saved(transformers.LlamaConfig(**SIZES), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(TrainingError, match=r"it has .*pytorch_model.bin\): expected .* save_pretrained writes"):
        levanter_model.load_model(str(tmp_path))


def test_the_vocabulary_is_the_models_padded_or_not(tmp_path):
    theirs = saved(transformers.LlamaConfig(**{**SIZES, "vocab_size": 64}), tmp_path)  # a tokenizer may know fewer
    assert levanter_model.load_model(str(tmp_path)).Vocab.size == theirs.get_input_embeddings().num_embeddings == 64
    tensors = dict(ModelDirectory(tmp_path).tensors())
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:50]
    write_tensors(str(tmp_path), tensors)
    with pytest.raises(TrainingError, match=r"1 tensors with another shape, e.g. model.embed_tokens.weight"):
        levanter_model.load_model(str(tmp_path))


def test_a_hub_id_or_an_empty_directory_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="no model directory at 'org/model'.*download step"):
        levanter_model.load_model("org/model")
    with pytest.raises(TrainingError, match="no config.json"):
        levanter_model.load_model(str(tmp_path))


def test_planning_imports_are_light():
    modules = "training.sft_config, training.dpo_config, training.models, training.models.random_model_config, "
    modules += "export.hf_config, export.periodic, evaluation.step_configs, data.step_configs, steps, recipes.defaults"
    imports = "import " + ", ".join(f"marin_sft.{name.strip()}" for name in modules.split(","))
    heavy = "{'jax', 'levanter', 'haliax', 'transformers', 'torch', 'numpy', 'ray'}"
    code = f"import sys; {imports}; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
