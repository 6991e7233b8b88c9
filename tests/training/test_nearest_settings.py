"""Which settings are near, and that each is what it says."""

from dataclasses import replace

import pytest

from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.nearest_settings import Setting
from tests.training.small_runs import sft_config


def setting(devices: int = 2, **changes) -> Setting:
    config = sft_config("base", **{"train_batch_size": 16, "precision": "bf16", **changes})
    return Setting(config, 4096, devices)


def said(start: Setting) -> list[list[str]]:
    return [[", ".join(near.changes) for near in kind] for kind in start.nearest() if kind]


def test_cheap_changes_come_first_and_small_ones_before_large_ones():
    assert said(setting()) == [
        ["per_device_parallelism=4", "per_device_parallelism=2", "per_device_parallelism=1"],
        ["gradient_checkpointing=True"],
        ["lora=LoraConfig(r=16, alpha=32)"],
        ["seq_len=2048", "seq_len=1024", "seq_len=512"],
        ["precision='bf16_full'"],
        ["4 devices", "8 devices", "16 devices", "32 devices"],
    ]
    assert ["precision='bf16'"] in said(setting(precision="fp32"))


def test_changes_are_said_as_the_user_set_them():
    kinds = said(setting(gradient_accumulation_steps=4))
    assert kinds[0] == ["gradient_accumulation_steps=8"]
    assert said(setting(devices=8, train_batch_size=8))[0] == ["gradient_checkpointing=True"]  # one row each already


@pytest.mark.parametrize(
    "changes, groups, rows",
    [
        ({}, 8, 2),
        ({"mesh": {"tensor": 2}}, 4, 4),
        ({"mesh": {"sequence": 4, "fsdp": 2}}, 2, 8),
        ({"per_device_parallelism": 1}, 8, 1),
        ({"train_batch_size": 12}, 8, 0),
    ],
)
def test_rows_at_once(changes, groups, rows):
    found = setting(devices=8, **changes)
    assert (found.groups, found.at_once) == (groups, rows)


def test_an_adapter_is_offered_only_where_training_takes_one():
    for changes in ({"lora": LoraConfig(r=4, alpha=8)}, {"frozen_parameters": "embed_tokens"}):
        assert not [kind for kind in said(setting(**changes)) if kind[0].startswith("lora=")]
        assert setting(**changes).adapted() is None
    assert setting().adapted().config.lora.r == 16


def test_the_smallest_with_the_same_result_has_one_row_and_recomputes():
    found = setting().smallest()
    assert found.at_once == 1 and found.config.gradient_checkpointing is True
    asked = setting(gradient_checkpointing="offload").smallest()
    assert asked.changes == ("per_device_parallelism=1",)
    same = {"per_device_parallelism": -1, "gradient_checkpointing": False}
    assert replace(found.config, **same) == setting().config
