"""The environment variable MARIN_SFT_SCALE, which lets the large experiments run on a laptop.

MARIN_SFT_SCALE=full    as written; the default
MARIN_SFT_SCALE=tiny    all steps, but little training: 4 steps of 4 rows of at most 256 tokens, on CPU, exported
                        every 2 steps; the model has the shape of the downloaded checkpoint

Datasets, tokenizers and models are always those of the experiment. For small ones, point HF_ENDPOINT at a hub that
serves small ones under their names, as `tests/experiments/test_seed_experiments.py` does.
"""

from __future__ import annotations

import dataclasses
import os

from marin_sft.errors import ConfigError
from marin_sft.execution.resources import CpuConfig
from marin_sft.recipes.conversion import Arguments
from marin_sft.recipes.simple_configs import SimpleDPOConfig, SimpleSFTConfig
from marin_sft.training.models import LlamaConfig

SCALES = ("full", "tiny")


def at_scale(config: SimpleSFTConfig) -> SimpleSFTConfig:
    """`config` at the scale of MARIN_SFT_SCALE."""
    return dataclasses.replace(config, **_tiny_fields(config)) if _tiny() else config


def _tiny_fields(config: SimpleSFTConfig | SimpleDPOConfig) -> Arguments:
    return {
        "resources": CpuConfig(cpus=os.cpu_count() or 1),
        "tpu_type": None,
        "node_count": None,
        "train_batch_size": min(config.train_batch_size, 4),
        "num_train_steps": 4,
        "num_train_epochs": None,
        "max_seq_len": min(config.max_seq_len, 256),
        "steps_per_checkpoint": 2,
        "steps_per_eval": 2,
        "steps_per_hf_export": 2,
    }


def dpo_at_scale(config: SimpleDPOConfig) -> SimpleDPOConfig:
    """`config` at the scale of MARIN_SFT_SCALE."""
    return dataclasses.replace(config, **_tiny_fields(config), num_epochs=None) if _tiny() else config


def shape_at_scale(model_config: LlamaConfig) -> LlamaConfig | None:
    """`model_config`, or None if the checkpoint may have any shape."""
    return None if _tiny() else model_config


def _tiny() -> bool:
    scale = os.environ.get("MARIN_SFT_SCALE", "full")
    if scale not in SCALES:
        raise ConfigError(f"MARIN_SFT_SCALE={scale!r}; expected one of {', '.join(SCALES)}")
    return scale == "tiny"
