"""Checks of a training step's inputs before anything runs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from marin_sft.data.step_configs import MixtureConfig
from marin_sft.errors import ConfigError
from marin_sft.execution.step import ExecutorStep
from marin_sft.inputs import Source, path_of
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models.families import check_directory
from marin_sft.training.models.model_config import Fields
from marin_sft.training.train_config import TrainConfig


def adapter_found(training: Fields) -> dict[str, Any]:
    """`training` with the directory of the adapter: for a training step, that is `adapter` in its output."""
    lora = training.get("lora")
    if not isinstance(lora, LoraConfig) or lora.adapter_path is None:
        return dict(training)
    source: Source = lora.adapter_path
    if isinstance(source, ExecutorStep) and isinstance(source.config, TrainConfig):
        source = source / "adapter"
    return {**training, "lora": replace(lora, adapter_path=path_of(source))}


def check_length(mixture: ExecutorStep[MixtureConfig], training: Fields) -> None:
    """Raise ConfigError unless the mixture has enough data for the length of `training`."""
    data, epochs = mixture.config.data, training.get("num_train_epochs") or 1
    if not data.training:
        raise ConfigError(f"step '{mixture.name}': no component has a weight above 0; expected something to train on")
    if data.stop_strategy != "restart" and isinstance(epochs, int | float) and epochs > 1:
        raise ConfigError(
            f"step '{mixture.name}': stop_strategy={data.stop_strategy!r} ends the data after one epoch; expected "
            f"num_train_epochs of at most 1, got {epochs}, or stop_strategy='restart'"
        )


def check_model(source: Source | None, seq_len: int | None = None) -> None:
    """Raise ConfigError for a local model that training would refuse. Missing ones are reported with all inputs."""
    if isinstance(source, str | Path) and os.path.isdir(source):
        check_directory(str(source), seq_len if isinstance(seq_len, int) else None)
