"""What `default_dpo` plans."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.defaults import default_dpo, default_sft, default_tokenize
from experiments.qwen3 import qwen3_0_6b
from experiments.simple_dpo_config import SimpleDPOConfig
from experiments.simple_sft_config import SimpleSFTConfig
from marin_sft import CpuConfig
from marin_sft.data import PreferenceChatLmDatasetFormat, lm_data_config
from marin_sft.errors import ConfigError
from marin_sft.execution.step import InputName

ROOT = Path(__file__).parents[2]
BASE = {"resources": CpuConfig(), "model_name_or_path": "Qwen/Qwen3-0.6B"}


@pytest.fixture
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "pairs.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}))
    rows = str(folder / "pairs.jsonl")
    return default_tokenize("pairs", rows, "Qwen/Qwen3-0.6B", PreferenceChatLmDatasetFormat())


def test_the_first_model_is_the_reference(pairs):
    step = default_dpo("x", pairs, qwen3_0_6b, SimpleDPOConfig(**BASE))
    assert step.name == "checkpoints/x_seed0"
    reference = step.config.reference_logprobs
    assert reference.name == "reference_logprobs/pairs_pairs_Qwen--Qwen3-0.6B"
    assert reference.config.model == step.config.base_model and step.config.starts_at_reference


def test_a_sweep_computes_the_reference_once(pairs):
    sweep = [
        default_dpo(f"beta{beta}_{loss}", pairs, None, SimpleDPOConfig(**BASE, beta=beta, loss_type=loss))
        for beta in (0.1, 0.5)
        for loss in ("sigmoid", "ipo")
    ]
    assert len({str(step.config.reference_logprobs) for step in sweep}) == 1
    assert len({str(step.config.mixture) for step in sweep}) == 1


def is_model_of(place: InputName, step) -> bool:
    return place.step is step and place.name == "model"


def test_a_training_step_is_a_model_to_start_from_and_to_compare_with(pairs):
    sft = default_sft("s", pairs, None, SimpleSFTConfig(**BASE))
    step = default_dpo("x", pairs, None, SimpleDPOConfig(resources=CpuConfig(), initialize_from_checkpoint_path=sft))
    assert is_model_of(step.config.base_model, sft) and is_model_of(step.config.reference_logprobs.config.model, sft)
    assert step.config.starts_at_reference
    other = default_dpo("x", pairs, None, SimpleDPOConfig(**BASE, reference_model_path=sft))
    assert is_model_of(other.config.reference_logprobs.config.model, sft) and not other.config.starts_at_reference


def test_no_reference_where_none_is_needed(pairs):
    for fields in ({"loss_type": "simpo"}, {"reference_free": True}):
        assert default_dpo("x", pairs, None, SimpleDPOConfig(**BASE, **fields)).config.reference_logprobs is None
    synced = default_dpo("x", pairs, None, SimpleDPOConfig(**BASE, ref_model_sync_steps=10))
    assert synced.config.reference_logprobs is None and synced.config.reference_model == synced.config.base_model


def test_settings_reach_training_and_data(pairs):
    config = SimpleDPOConfig(
        **BASE,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, 0.2],
        max_prompt_length=100,
        train_seq_len=300,
        num_epochs=2,
        label_smoothing=0.1,
    )
    step = default_dpo("x", pairs, None, config)
    assert step.config.loss_type == {"sigmoid": 1.0, "sft": 0.2} and step.config.label_smoothing == 0.1
    assert step.config.num_train_epochs == 2
    data = step.config.mixture.config
    assert (data.seq_len, data.max_prompt_length, data.data.validation_fraction) == (300, 100, 0.1)


def test_data_that_say_what_is_validated_on_keep_it(pairs):
    config = SimpleDPOConfig(**BASE)
    other = dataclasses.replace(pairs, name="tokenized/other")
    for data, expected in [
        (lm_data_config(pairs, validation_fraction=0.01), 0.01),
        (lm_data_config(pairs, num_validation_sequences={"pairs": 4}), 0.0),
        (lm_data_config(pairs, {"other": other}), 0.0),
    ]:
        assert default_dpo("x", data, None, config).config.mixture.config.data.validation_fraction == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_epochs": 1, "num_train_steps": 5}, "at most one of them"),
        ({"validation_split_fraction": 1.0}, "validation_split_fraction=1.0"),
        ({"model_name_or_path": None}, "one model to start from"),
        ({"loss_type": "sigmoud"}, "sigmoid"),
        ({"loss_type": "simpo", "reference_model_path": "Qwen/Qwen3-1.7B"}, "a reference model, but .* expected None"),
        ({"reference_free": True, "ref_model_sync_steps": 5}, "ref_model_sync_steps, but .* expected None"),
    ],
)
def test_contradictions_are_refused(pairs, fields, message):
    with pytest.raises(ConfigError, match=message):
        default_dpo("x", pairs, None, dataclasses.replace(SimpleDPOConfig(**BASE), **fields))


def test_planning_imports_nothing_heavy(tmp_path):
    program = (
        f"import runpy, sys; sys.argv = ['dpo', '--dry_run', '--prefix', {str(tmp_path)!r}];"
        "runpy.run_path('experiments/exp_dpo_orpo_mix_qwen3_14b.py', run_name='__main__');"
        "heavy = {'jax', 'ray', 'transformers', 'levanter', 'datasets', 'numpy', 'pyarrow'} & set(sys.modules);"
        "sys.exit(f'planning imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
