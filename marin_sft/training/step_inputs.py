"""Checks of a training step's inputs before anything runs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from marin_sft.data.step_configs import MixtureConfig, TokenizeConfig
from marin_sft.errors import ConfigError
from marin_sft.execution.resources import CpuConfig, Resources
from marin_sft.execution.step import ExecutorStep
from marin_sft.inputs import Source, check_step, path_of
from marin_sft.nearest import listed
from marin_sft.training.devices import devices_of, micro_batches_of
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models.families import check_directory
from marin_sft.training.models.model_config import Fields
from marin_sft.training.models.vocabulary import check_local_tokenizer
from marin_sft.training.train_config import TrainConfig

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def adapter_found(training: Fields) -> dict[str, Any]:
    """`training` with the directory of the adapter: for a training step, that is `adapter` in its output."""
    lora = training.get("lora")
    if not isinstance(lora, LoraConfig) or lora.adapter_path is None:
        return dict(training)
    source: Source = lora.adapter_path
    if isinstance(source, ExecutorStep) and isinstance(source.config, TrainConfig):
        source = source / "adapter"
    if isinstance(source, str | Path) and os.path.isdir(source):
        missing = [name for name in _ADAPTER if not os.path.exists(os.path.join(source, name))]
        if missing:
            there = listed(sorted(os.listdir(source))) or "nothing"
            raise ConfigError(
                f"LoraConfig.adapter_path = {str(source)!r}: no {' and no '.join(missing)} there (it has {there}); "
                "expected the directory of a PEFT adapter, saved as safetensors"
            )
    return {**training, "lora": replace(lora, adapter_path=path_of(source))}


def check_inputs(
    what: str,
    mixture: ExecutorStep[MixtureConfig],
    base_model: Source,
    resources: Resources | None,
    training: Fields,
) -> None:
    """Raise ConfigError for inputs that the training would refuse after the steps before it have run."""
    check_step(f"{what}: mixture", mixture, MixtureConfig, "mixture()")
    check_length(mixture, training)
    check_tokenizer(mixture, base_model)
    check_batch(what, resources, training)


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


def check_batch(what: str, resources: Resources | None, training: Fields) -> None:
    """Raise ConfigError where the batch cannot be spread over the devices that `resources` are known to have."""
    batch, mesh = training.get("train_batch_size"), training.get("mesh")
    micro, parts = training.get("per_device_parallelism", -1), training.get("gradient_accumulation_steps")
    counts = [count for count in (batch, micro, parts) if count is not None]
    devices = devices_of(CpuConfig() if resources is None else resources)
    if batch is None or devices is None or mesh is not None or not all(type(c) is int and abs(c) > 0 for c in counts):
        return  # not known, or refused by the config
    made = micro_batches_of(batch, devices, micro, parts)
    if isinstance(made, str):
        raise ConfigError(f"{what}: {made}")


def check_model(source: Source | None, seq_len: int | None = None, rope_scaling: Fields | None = None) -> None:
    """Raise ConfigError for a local model that training would refuse. Missing ones are reported with all inputs."""
    if isinstance(source, str | Path) and os.path.isdir(source):
        check_directory(str(source), seq_len if isinstance(seq_len, int) else None, rope_scaling)


def check_tokenizer(mixture: ExecutorStep[MixtureConfig], base_model: Source) -> None:
    """Raise ConfigError where both are local directories, and the model cannot be trained on the tokenizer's ids."""
    for tokenized in mixture.config.data.tokenized.values():
        config = getattr(tokenized, "config", None)
        tokenizer = config.tokenizer if isinstance(config, TokenizeConfig) else None
        if all(isinstance(source, str | Path) and os.path.isdir(source) for source in (tokenizer, base_model)):
            check_local_tokenizer(str(tokenizer), str(base_model))
