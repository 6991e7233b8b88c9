"""Which layers an adapter has, and what its config refuses."""

import pytest

from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import levanter_model, lora, peft_directory


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
    with pytest.raises(TrainingError, match=r"\['qproj'\] fits no linear layer, expected of .*q_proj"):
        layers(target_modules=["k_proj", "qproj"])
    with pytest.raises(TrainingError, match=r"adapts model.layers.1.self_attn.q_proj, but not model.layers.0"):
        layers(target_modules=r"model\.layers\.1\..*q_proj")


def test_dropout_is_that_of_the_adapter_unless_it_is_given(base_model, tmp_path):
    stored = LoraConfig(r=2, alpha=2, dropout=0.3, target_modules=["q_proj"])
    peft_directory.write_adapter(str(tmp_path), peft_directory.Adapter(stored, {}), base_model, base_model)

    def resolved(**fields) -> float | None:
        return peft_directory.resolved(LoraConfig(adapter_path=str(tmp_path), **fields)).dropout

    assert (resolved(), resolved(dropout=0.0), resolved(dropout=0.1)) == (0.3, 0.0, 0.1)
    assert LoraConfig(adapter_path="unknown").dropout is None and LoraConfig(r=2, alpha=2).dropout == 0


def test_config_values_are_checked_by_name():
    with pytest.raises(ConfigError, match=r"LoraConfig.r = None: expected a number, unless adapter_path"):
        LoraConfig(alpha=8)
    with pytest.raises(ConfigError, match=r"LoraConfig.dropout = 1.0"):
        LoraConfig(r=4, alpha=8, dropout=1.0)
    for targets in (["q_proj", "lm_head"], ["embed_tokens"], ".*"):
        with pytest.raises(ConfigError, match=r"LoraConfig.target_modules = .*: expected linear layers without"):
            LoraConfig(r=4, alpha=8, target_modules=targets)
    with pytest.raises(ConfigError, match="not a regular expression"):
        LoraConfig(r=4, alpha=8, target_modules="(q_proj")
    with pytest.raises(ConfigError, match=r"init_lora_weights = 'pissa': expected True or 'gaussian'"):
        LoraConfig(r=4, alpha=8, init_lora_weights="pissa")
