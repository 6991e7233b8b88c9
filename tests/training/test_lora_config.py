"""Which layers an adapter has, and what its config refuses."""

import dataclasses
import json
from pathlib import Path

import pytest

from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import levanter_model, lora, peft_directory
from marin_sft.training.models.model_directory import ModelDirectory
from tests.training.conftest import SHAPE
from tests.training.small_runs import sft_config


def test_layers_are_chosen_as_in_peft(base_model):
    def layers(**choice) -> set[str]:
        model = levanter_model.load_model(base_model, lora=LoraConfig(r=2, alpha=2, **choice))
        return {name.removeprefix("model.layers.") for name in peft_directory.layers_of(lora.adapter_tensors(model))}

    assert layers(target_modules=["q_proj", "mlp.up_proj"]) == {
        "0.self_attn.q_proj", "0.mlp.up_proj", "1.self_attn.q_proj", "1.mlp.up_proj"
    }  # fmt: skip
    assert layers(target_modules=r".*\.(k|v)_proj", exclude_modules=["v_proj"]) == {
        "0.self_attn.k_proj", "1.self_attn.k_proj"
    }  # fmt: skip
    assert layers(target_modules="all-linear") == layers() and len(layers()) == 14
    with pytest.raises(TrainingError, match=r"adapts model.layers.1.self_attn.q_proj, but not model.layers.0"):
        layers(target_modules=r"model\.layers\.1\..*q_proj")


def test_dropout_is_that_of_the_adapter_unless_it_is_given(base_model, tmp_path):
    stored = LoraConfig(r=2, alpha=2, dropout=0.3, target_modules=["q_proj"])
    peft_directory.write_adapter(str(tmp_path), peft_directory.Adapter(stored, {}), ModelDirectory(base_model))

    def resolved(**fields) -> float | None:
        return peft_directory.resolved(LoraConfig(adapter_path=str(tmp_path), **fields)).dropout

    assert (resolved(), resolved(dropout=0.0), resolved(dropout=0.1)) == (0.3, 0.0, 0.1)
    assert LoraConfig(adapter_path="unknown").dropout is None and LoraConfig(r=2, alpha=2).dropout == 0


def test_config_values_are_checked_by_name():
    with pytest.raises(ConfigError, match=r"LoraConfig.r = None: expected a number, unless adapter_path"):
        LoraConfig(alpha=8)
    with pytest.raises(ConfigError, match=r"LoraConfig.dropout = 1.0"):
        LoraConfig(r=4, alpha=8, dropout=1.0)
    for targets in (["k_proj", "qproj"], "qproj", "q_proj", r"layers\.0\..*"):  # an expression is for the whole name
        with pytest.raises(ConfigError, match=r"target_modules = .*: expected some of q_proj, .*; no layer matches '"):
            LoraConfig(r=4, alpha=8, target_modules=targets)
    for targets in (["q_proj", "lm_head"], ["embed_tokens"], ".*"):
        with pytest.raises(ConfigError, match=r"LoraConfig.target_modules = .*: expected linear layers without"):
            LoraConfig(r=4, alpha=8, target_modules=targets)
    with pytest.raises(ConfigError, match="not a regular expression"):
        LoraConfig(r=4, alpha=8, target_modules="(q_proj")
    with pytest.raises(ConfigError, match=r"init_lora_weights = 'pissa': expected True or 'gaussian'"):
        LoraConfig(r=4, alpha=8, init_lora_weights="pissa")


SOME = {
    "target_modules": ["model.layers.0.self_attn.q_proj", r"model\.layers\.[01]\..*q_proj", ["0.mlp.up_proj"]],
    "exclude_modules": [r".*layers\.0\..*", ["1.mlp.up_proj"]],
}


@pytest.mark.parametrize(("field", "modules"), [(field, some) for field, given in SOME.items() for some in given])
def test_some_layers_of_those_computed_as_one_are_refused_when_planned(base_model, tmp_path, field, modules):
    chosen = LoraConfig(r=4, alpha=8, **{field: modules})
    layers = {"num_hidden_layers": 4}
    for family, directory in (("llama", tmp_path / "llama"), ("olmo3", tmp_path / "olmo3")):
        directory.mkdir()
        config = json.loads(Path(base_model, "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, "model_type": family, **layers}))
    refused = f"LoraConfig.{field} = .*all layers of a kind or none, because llama .*, but not"
    with pytest.raises(ConfigError, match=refused):
        sft_config(tmp_path / "llama", lora=chosen)
    sft_config(tmp_path / "olmo3", lora=chosen)
    sft_config("gs://bucket/llama", lora=chosen)  # found out when it is there
    with pytest.raises(ConfigError, match="because qwen3 computes them as one"):
        sft_config("gs://bucket/qwen3", lora=chosen, expected_model=dataclasses.replace(SHAPE, num_layers=3))


def test_all_of_a_kind_may_be_chosen_by_any_expression(base_model):
    for modules in (r".*layers\.[0-7]\..*_proj", r".*\.(q|v)_proj", ["q_proj", "mlp.up_proj"], "all-linear", None):
        sft_config(base_model, lora=LoraConfig(r=4, alpha=8, target_modules=modules))
