"""What a training of an adapter leaves: the adapter as PEFT reads it, and base and adapter in one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from marin_sft.data.download import PROVENANCE
from marin_sft.errors import TrainingError
from marin_sft.export.periodic import PeriodicExports
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import levanter_model, lora, peft_directory
from marin_sft.training.models.adapted_weights import Merged
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.peft_directory import Adapter, read_adapter, same_ids, write_adapter
from marin_sft.training.models.token_rows import token_ids_of
from marin_sft.training.sft import train
from marin_sft.training.sft_config import SFTConfig

LORA = LoraConfig(r=3, alpha=8, dropout=0.1, use_dora=True, exclude_modules=["v_proj"])
LAYERS = [
    f"model.layers.{i}.{name}"
    for i in range(2)
    for name in ("mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "self_attn.k_proj", "self_attn.o_proj")
] + [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]


@pytest.fixture(scope="module")
def published(base_model, tmp_path_factory) -> str:
    """The base model as a download leaves it."""
    path = tmp_path_factory.mktemp("published") / "model"
    shutil.copytree(base_model, path)
    (path / PROVENANCE).write_text(json.dumps({"kind": "model", "id": "org/base", "commit": "1a2b3c4"}))
    return str(path)


@pytest.fixture(scope="module")
def trained(published, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    config = SFTConfig(
        mixture="unused",
        tokenized={},
        base_model=published,
        output_path=str(output),
        earlier_attempts=(),
        train_batch_size=4,
        num_train_steps=4,
        learning_rate=1e-2,
        lora=LORA,
        hf_exports=PeriodicExports(base_model=published, steps=2, dtype="float32"),
    )
    train(config, CountingBatches(vocab_size=40, batch_size=4, length=16))
    return output


def test_files_are_those_of_peft(trained):
    tensors = load_file(trained / "adapter" / "adapter_model.safetensors")
    kinds = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    assert tensors.keys() == {f"base_model.model.{layer}.{kind}" for layer in LAYERS for kind in kinds}
    assert all(tensor.dtype == np.float32 for tensor in tensors.values())
    stored = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    expected = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "org/base",
        "revision": "1a2b3c4",
        "r": 3,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "target_modules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj"],
        "exclude_modules": ["v_proj"],
        "use_dora": True,
        "use_rslora": False,
        "bias": "none",
    }
    assert {name: stored[name] for name in expected} == expected


def test_models_are_merged_by_the_formula(trained, published):
    """W' = m (W + s B A) / |W + s B A|, norms over the inputs, and all other tensors as they were."""
    adapter = load_file(trained / "adapter" / "adapter_model.safetensors")
    base, merged = (dict(ModelDirectory(path).tensors()) for path in (published, trained / "model"))
    for name, tensor in base.items():
        layer = name.removesuffix(".weight")
        expected = torch.tensor(tensor)
        if layer in LAYERS:
            a, b, m = (
                torch.tensor(adapter[f"base_model.model.{layer}.{kind}"])
                for kind in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
            )
            whole = expected + 8 / 3 * b @ a
            expected = m[:, None] * whole / whole.norm(dim=1, keepdim=True)
            assert np.abs(merged[name] - tensor).max() > 1e-3
        np.testing.assert_allclose(merged[name], expected, atol=1e-6 if layer in LAYERS else 0, err_msg=name)


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"trainable_tokens": ["<|end|>"]}])
def test_a_new_adapter_merged_is_the_base_model_bit_for_bit(published, settings, tmp_path):
    shutil.copytree(published, tmp_path / "base")
    stored = {name: np.array(tensor) for name, tensor in ModelDirectory(published).tensors().items()}
    stored["model.layers.0.mlp.up_proj.weight"][0, 0] = -0.0  # plus 0 it would be another 0
    save_file(stored, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    base, config = ModelDirectory(tmp_path / "base"), LoraConfig(r=2, alpha=4, **settings)
    model = levanter_model.load_model(base, lora=config)
    tensors = lora.adapter_tensors(model)
    merged = Merged(base.tensors(), Adapter(config, tensors, same_ids(tensors, token_ids_of(model))), stored)
    for name, tensor in stored.items():
        assert merged[name].tobytes() == tensor.tobytes(), name


def test_exports_on_the_way_are_whole_models(trained):
    last, final, earlier = (
        dict(ModelDirectory(str(trained / path)).tensors()) for path in ("hf/step-4", "model", "hf/step-2")
    )
    assert last.keys() == final.keys() == earlier.keys()
    assert all(np.array_equal(last[name], final[name]) for name in final)
    assert not np.array_equal(earlier["model.layers.0.mlp.up_proj.weight"], final["model.layers.0.mlp.up_proj.weight"])


def test_read_and_written_again_it_is_the_same(trained, published, tmp_path):
    adapter = read_adapter(str(trained / "adapter"))
    write_adapter(str(tmp_path), Adapter(adapter.config, adapter.tensors), ModelDirectory(published))
    for file in (peft_directory.CONFIG, peft_directory.WEIGHTS):
        before, after = (path / file for path in (trained / "adapter", tmp_path))
        if file == peft_directory.CONFIG:
            assert json.loads(after.read_text()) == json.loads(before.read_text())
        else:
            assert after.read_bytes() == before.read_bytes()


def test_magnitudes_as_peft_once_called_them(trained, tmp_path):
    shutil.copytree(trained / "adapter", tmp_path / "adapter")
    weights = tmp_path / "adapter" / peft_directory.WEIGHTS
    old = {f"{name}.weight" if "magnitude" in name else name: value for name, value in load_file(weights).items()}
    save_file(old, weights)
    assert (
        read_adapter(str(tmp_path / "adapter")).tensors.keys() == read_adapter(str(trained / "adapter")).tensors.keys()
    )


@pytest.mark.parametrize(
    "setting, value",
    [
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("rank_pattern", {"q_proj": 2}),
        ("init_lora_weights", "pissa"),
    ],
)
def test_adapters_that_would_be_computed_otherwise(trained, tmp_path, setting, value):
    shutil.copytree(trained / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / peft_directory.CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), setting: value}))
    with pytest.raises(TrainingError, match=f"{setting}.*merge this one with PEFT"):
        read_adapter(str(tmp_path / "adapter"))


def test_directories_that_hold_no_adapter(trained, published, tmp_path):
    with pytest.raises(TrainingError, match="no adapter_config.json; expected the directory of a PEFT adapter"):
        read_adapter(published)
    shutil.copytree(trained / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / peft_directory.WEIGHTS).unlink()
    with pytest.raises(TrainingError, match="no adapter_model.safetensors"):
        read_adapter(str(tmp_path / "adapter"))
