"""Values of a type that a config's field does not have are refused while planning, by the field's name."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from experiments.simple_dpo_config import SimpleDPOConfig
from experiments.simple_sft_config import SimpleSFTConfig
from marin_sft.errors import ConfigError
from marin_sft.execution.resources import CpuConfig
from marin_sft.execution.step import InputName, unversioned
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.dpo_loss_types import LossOptions
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.mesh import MeshConfig
from marin_sft.training.metrics.trackers import TensorboardConfig, WandbConfig
from marin_sft.training.stops import EarlyStopping
from tests.training.small_runs import sft_config

WHOLE, NUMBER = "a whole number", "a finite number"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_train_steps": 1e3}, f"{WHOLE} or None"),
        ({"train_batch_size": 4.0}, WHOLE),
        ({"seed": 1.5}, WHOLE),
        ({"seed": True}, WHOLE),
        ({"steps_per_eval": 0.5}, f"{WHOLE} or None"),
        ({"learning_rate": "2e-5"}, f"{NUMBER}, got a string: remove the quotes; in YAML write 2.0e-5"),
        ({"learning_rate": math.inf}, NUMBER),
        ({"weight_decay": None}, NUMBER),
        ({"warmup": True}, NUMBER),
        ({"track_memory": "1s"}, f"True or False or {NUMBER}"),
        ({"do_eval": "yes"}, "True or False or None"),
        ({"training_time_limit": 90}, "text or None"),
        ({"frozen_parameters": ["a", "b"]}, "text or None"),
        ({"unfreeze": ["a"]}, f"a mapping of text to {WHOLE}"),
        ({"unfreeze": {"a": True}}, f"a mapping of text to {WHOLE}"),
        ({"optimizer_options": None}, "a mapping of text to anything"),
        ({"reinit_tokens": "<|x|>"}, r"a sequence \(list or tuple\) of text"),
        ({"reinit_tokens": (1,)}, r"a sequence \(list or tuple\) of text"),
        ({"trackers": TensorboardConfig()}, r"a sequence \(list or tuple\) of TrackerConfig"),
        (
            {"lora": {"r": 8, "alpha": 16}},
            "LoraConfig or None, as in LoraConfig.*, from marin_sft.training.lora_config$",
        ),
        ({"early_stopping": {"steps": 2, "patience": 1}}, "EarlyStopping or None"),
        ({"per_device_parallelism": -5}, "at least 1, or -1"),
    ],
)
def test_a_value_of_another_type(fields, expected):
    (field,) = fields
    with pytest.raises(ConfigError, match=rf"^SFTConfig\.{field} = .*: expected {expected}"):
        sft_config("base", **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_train_steps": np.int64(4), "learning_rate": np.float32(1e-3)},
        {"learning_rate": 1, "max_grad_norm": Fraction(1, 2)},
        {"learning_rate": unversioned("of another type until it is unwrapped")},
        {"reinit_tokens": ["<|x|>"], "trackers": [WandbConfig(tags=["x"])]},
        {"mixture": InputName.hardcoded("m"), "tokenized": {"chat": Path("chat")}},
        {"lora": LoraConfig(r=8, alpha=16, target_modules={"q_proj"}, adapter_path=Path("adapter"))},
    ],
)
def test_what_passes(fields):
    sft_config("base", **fields)


@pytest.mark.parametrize(
    ("of", "fields", "message"),
    [
        (LoraConfig, {"r": "8", "alpha": 16}, "LoraConfig.r = '8'"),
        (LoraConfig, {"r": 8, "alpha": 16, "dropout": "0.1"}, "LoraConfig.dropout = '0.1'"),
        (MeshConfig, {"data": 2.0}, "MeshConfig.data = 2.0"),
        (EarlyStopping, {"steps": "5", "patience": 1}, "EarlyStopping.steps = '5'"),
        (WandbConfig, {"tags": "chat"}, "WandbConfig.tags = 'chat'"),
        (SimpleSFTConfig, {"trackers": WandbConfig()}, "SimpleSFTConfig.trackers = "),
        (SimpleDPOConfig, {"cooldown": "0.1"}, "SimpleDPOConfig.cooldown = '0.1'"),
        (SimpleDPOConfig, {}, "SimpleDPOConfig: resources=None, tpu_type=None; expected exactly one"),
        (SimpleDPOConfig, {"resources": CpuConfig()}, "SimpleDPOConfig: initialize_from_hf=None"),
    ],
)
def test_other_configs(of, fields, message):
    with pytest.raises(ConfigError, match=message):
        of(**fields)


@pytest.mark.parametrize("fields", [{"beta": None}, {"beta": "0.1"}, {"loss_type": None}, {"loss_type": {"sft": "1"}}])
def test_losses(fields):
    (field,) = fields
    sizes = {"train_batch_size": 1, "num_train_steps": 1, "learning_rate": 1e-6}
    with pytest.raises(ConfigError, match=f"DPOConfig.{field} = .*: expected "):
        DPOConfig(mixture="m", tokenized={}, base_model="b", reference_logprobs="r", **sizes, **fields)
    # Where they come without a config around them.
    with pytest.raises(ConfigError, match=r"(beta|loss_type|loss_weights)=.*; expected "):
        LossOptions(**fields).check_losses()
