"""Checks of a training step's inputs before anything runs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from marin_sft.data.step_configs import MixtureConfig, TokenizeConfig
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.execution.resources import CpuConfig, GpuConfig, Resources, TpuPodConfig
from marin_sft.execution.step import ExecutorStep, UnversionedValue
from marin_sft.inputs import Source, check_step, path_of
from marin_sft.nearest import listed
from marin_sft.training.devices import RUNS_ON, devices_of, micro_batches_of
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.mesh import MeshConfig, check_rows, mesh_config, on_devices
from marin_sft.training.mesh import check_model as check_shape
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.families import check_directory, check_family
from marin_sft.training.models.model_config import Fields
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.random_model_config import RandomModelConfig
from marin_sft.training.models.vocabulary import check_local_tokenizer
from marin_sft.training.train_config import TrainConfig

_PLATFORMS: dict[type, str] = {GpuConfig: "gpu", TpuPodConfig: "tpu"}
_SIZES = {"hidden_size", "intermediate_size", "num_attention_heads"}
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
    of_rows: bool,
) -> None:
    """Raise ConfigError for inputs that the training would refuse after the steps before it have run. of_rows: it takes
    rows that are as long as the mixture says."""
    check_step(f"{what}: mixture", mixture, MixtureConfig, "mixture()")
    check_length(mixture, training)
    check_tokenizer(mixture, base_model)
    length = mixture.config.seq_len if of_rows else None
    check_devices(what, resources, training, base_model, length)


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


def check_devices(
    what: str, resources: Resources | None, training: Fields, base_model: Source | None = None, length: object = None
) -> None:
    """Raise ConfigError for what the devices that `resources` are known to have cannot do: the attention, the mesh, the
    batch. base_model, and length, the tokens of a row: if they are known."""
    resources = CpuConfig() if resources is None else resources
    backend = training.get("attention_backend")
    needs = RUNS_ON.get(str(backend))
    # The default resources say little: a step has the devices of its machine, which may not be the one that plans.
    if isinstance(resources, GpuConfig | TpuPodConfig) and needs not in (None, _PLATFORMS[type(resources)]):
        raise ConfigError(
            f"{what}: attention_backend = {backend!r}: runs on {needs} only, and the resources of the step are "
            f"{type(resources).__name__}(...); leave it out"
        )
    batch, given = training.get("train_batch_size"), training.get("mesh")
    devices = devices_of(resources) if given is None or isinstance(resources, GpuConfig) else None
    micro, parts = training.get("per_device_parallelism", -1), training.get("gradient_accumulation_steps")
    counts = [count for count in (batch, micro, parts) if count is not None]
    if devices is None or isinstance(given, UnversionedValue):
        return  # not known
    try:
        mesh = on_devices(MeshConfig() if given is None else mesh_config(given), devices)
        shape = _shape(base_model, training) if devices > 1 else None
        if shape is not None:
            check_shape(shape, {"model": mesh.tensor, "data": mesh.fsdp})
        if isinstance(length, int):
            check_rows(mesh.sequence, length)
    except (ConfigError, TrainingError) as error:
        raise ConfigError(f"{what}: {error}") from error
    if batch is None or not all(type(count) is int and abs(count) > 0 for count in counts):
        return  # not known, or refused by the config
    made = micro_batches_of(batch, mesh.data * mesh.fsdp, micro, parts)
    if isinstance(made, str):
        raise ConfigError(f"{what}: {made}")


def _shape(base_model: Source | None, training: Fields) -> Fields | None:
    """The fields of config.json that the sizes of a model are in. None: a step will tell."""
    expected = training.get("expected_model")
    if isinstance(base_model, ExecutorStep) and isinstance(base_model.config, RandomModelConfig):
        expected = base_model.config.model
    if isinstance(expected, LlamaConfig):
        return expected.hf_config(0)
    if not isinstance(base_model, str | Path) or not os.path.isdir(base_model):
        return None
    try:
        config = ModelDirectory(base_model).config
        check_family(config)
    except TrainingError:  # see `check_model`
        return None
    return config if config.keys() >= _SIZES else None


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
