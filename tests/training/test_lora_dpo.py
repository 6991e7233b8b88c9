"""DPO of an adapter: against the base model, and against base and adapter where it goes on from one."""

import dataclasses
import math

import pytest

from experiments.defaults import default_dpo, default_tokenize
from experiments.simple_dpo_config import SimpleDPOConfig
from marin_sft import CpuConfig
from marin_sft.data import PreferenceChatLmDatasetFormat
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.steps import dpo as dpo_step
from marin_sft.steps import mixture, sft, tokenize
from marin_sft.training.dpo import dpo
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.reference import reference_logprobs
from tests.training.test_dpo import config_for, data, logged, reference, reference_config  # noqa: F401  (fixtures)


@pytest.fixture(scope="module")
def trained(data, base_model, reference, tmp_path_factory):  # noqa: F811
    output = tmp_path_factory.mktemp("adapter")
    fields = {"reference_logprobs": reference, "starts_at_reference": True, "lora": LoraConfig(r=4, alpha=8)}
    dpo(config_for(data, base_model, output, **fields))
    return output


def test_it_starts_at_the_base_model_and_learns(trained):
    lines = logged(trained)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[-1]["rewards/margins"] > 1e-4
    assert (trained / "adapter" / "adapter_model.safetensors").exists()


def test_it_goes_on_from_an_adapter_which_is_the_reference(trained, data, base_model, reference, tmp_path):  # noqa: F811
    adapter = f"{trained}/adapter"
    reference_logprobs(reference_config(data, base_model, str(tmp_path / "reference"), adapter=adapter))
    config = config_for(
        data,
        base_model,
        tmp_path / "again",
        reference_logprobs=str(tmp_path / "reference"),
        starts_at_reference=True,  # so that a first step with rewards is an error
        lora=LoraConfig(adapter_path=adapter, dropout=0.0),
    )
    dpo(config)
    first, before = logged(tmp_path / "again")[0], logged(trained)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["logps/chosen"] != pytest.approx(before["logps/chosen"], abs=1e-4)
    dropping = dataclasses.replace(config, lora=LoraConfig(adapter_path=adapter, dropout=0.5), num_train_steps=1)
    dpo(dataclasses.replace(dropping, output_path=str(tmp_path / "dropping")))  # it does not start at the reference
    assert abs(logged(tmp_path / "dropping")[0]["rewards/magnitude"]) > 1e-4
    of_the_base = dataclasses.replace(config, reference_logprobs=reference, output_path=str(tmp_path / "base"))
    with pytest.raises(TrainingError, match="step 1: .*expected 0"):
        dpo(of_the_base)


def test_the_reference_of_a_step_has_the_adapter_that_the_step_starts_from():
    tokens = tokenize("chat", "gs://bucket/rows.jsonl", tokenizer="gs://bucket/tokenizer")
    blend, options = mixture("blend", {"chat": tokens}, weights={"chat": 1}, seq_len=32), {"num_train_epochs": 1}
    options |= {"mixture": blend, "base_model": "gs://bucket/base", "learning_rate": 1e-4, "train_batch_size": 4}
    first = sft("first", lora=LoraConfig(r=4, alpha=8), **options)
    second = dpo_step("second", lora=LoraConfig(adapter_path=first), **options)
    found = second.config.reference_logprobs.config.adapter
    assert (found.step, found.name) == (first, "adapter") == (lora_of(second).step, lora_of(second).name)
    assert second.config.starts_at_reference
    assert dpo_step("third", lora=LoraConfig(r=4, alpha=8), **options).config.reference_logprobs.config.adapter is None
    against_base = dpo_step("x", lora=LoraConfig(adapter_path=first), reference="gs://bucket/base", **options)
    assert not against_base.config.starts_at_reference
    with pytest.raises(ConfigError, match="ref_model_sync_steps = 2: expected None with lora"):
        dpo_step("x", lora=LoraConfig(r=4, alpha=8), ref_model_sync_steps=2, **options)


def test_the_reference_of_a_step_has_the_positions_of_the_base_model():
    tokens = tokenize("chat", "gs://bucket/rows.jsonl", tokenizer="gs://bucket/tokenizer")
    blend = mixture("blend", {"chat": tokens}, weights={"chat": 1}, seq_len=32)
    options = {"mixture": blend, "learning_rate": 1e-4, "train_batch_size": 4, "num_train_epochs": 1}
    options |= {"base_model": "gs://bucket/base", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    for given in (None, "gs://bucket/base"):
        step = dpo_step("x", reference=given, **options)
        assert step.config.reference_logprobs.config.rope_scaling == options["rope_scaling"]
        assert step.config.starts_at_reference
    other = dpo_step("x", reference="gs://bucket/other", **options)
    assert other.config.reference_logprobs.config.rope_scaling is None and not other.config.starts_at_reference


def lora_of(step):
    return step.config.lora.adapter_path


def test_the_settings_of_users_reach_the_step():
    tokens = default_tokenize("pairs", "gs://bucket/pairs.jsonl", "org/tokenizer", PreferenceChatLmDatasetFormat())
    config = SimpleDPOConfig(resources=CpuConfig(), model_name_or_path="org/base", use_lora=True, lora_r=4)
    step = default_dpo("x", tokens, None, config)
    assert step.config.lora == LoraConfig(r=4, alpha=16, dropout=0.05)
