"""The config of every kind of training: the settings of its parts, the data, and the base model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from marin_sft.arguments import part_of_config
from marin_sft.execution.resources import GpuConfig, Resources, TpuPodConfig
from marin_sft.execution.step import (
    SizesOfInputs,
    earlier_attempts,
    execution_only,
    omitted_when,
    this_output_path,
    total,
)
from marin_sft.training.checkpoints import CheckpointSettings
from marin_sft.training.checks import check_types, require, unresolved
from marin_sft.training.devices import DeviceSettings
from marin_sft.training.evaluation_settings import EvaluationSettings
from marin_sft.training.exports import Exporter
from marin_sft.training.length import LengthSettings
from marin_sft.training.metrics.reporting import ReportingSettings
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.rope_scaling import RopeSettings
from marin_sft.training.optimization.optimizer_specs import OptimizerSettings
from marin_sft.training.optimization.schedule_settings import ScheduleSettings
from marin_sft.training.optimization.trainable import TrainableSettings
from marin_sft.training.other_names import INSTEAD


@part_of_config
class TrainingSettings(
    ReportingSettings,
    CheckpointSettings,
    EvaluationSettings,
    DeviceSettings,
    RopeSettings,
    TrainableSettings,
    OptimizerSettings,
    ScheduleSettings,
    LengthSettings,
):
    """The settings of all parts of training. Each part declares, documents and checks its own."""

    OTHER_NAMES: ClassVar[Mapping[str, str]] = INSTEAD

    seed: int = 0
    """Seed of the data order and of everything random in training."""

    def check_parts(self) -> None:
        """Raise ConfigError for a value that cannot be used, alone or in combination."""
        check_types(self)
        self.check_length()
        self.check_schedule()
        self.check_optimizer()
        self.check_rope()
        self.check_trainable()
        self.check_devices()
        self.check_evaluation()
        self.check_checkpoints()
        self.check_reporting()
        given = [part for part in (self.warmup, self.decay) if isinstance(part, int)]
        fits = self.num_train_steps is None or sum(given) <= self.num_train_steps
        require(self, "warmup", fits, f"with decay = {self.decay} at most num_train_steps = {self.num_train_steps}")
        trained = self.num_train_steps is None or all(step < self.num_train_steps for step in self.unfreeze.values())
        expected = (
            f"fewer updates than num_train_steps = {self.num_train_steps}; for tensors that are never trained, "
            "use frozen_parameters"
        )
        require(self, "unfreeze", trained, expected)
        whole = self.stop_after is None or self.early_stopping is None
        require(self, "stop_after", whole, "None with early_stopping, which ends training by itself")
        for field in ("frozen_parameters", "unfreeze", "weight_decay_parameters"):
            alone = self.lora is None or not getattr(self, field)
            require(self, field, alone, "no value with lora, which trains only adapters: LoraConfig chooses the layers")


@part_of_config
class TrainConfig(TrainingSettings):
    """What to train, on which data, and how. An example is what the mixture packs: a row of documents, or a pair.

    Raises:
        ConfigError: for a value that cannot be used.
    """

    mixture: str
    """Output of a mixture step."""

    tokenized: dict[str, str]
    """Outputs of tokenize steps, by the mixture's component names."""

    base_model: str
    """A Hugging Face directory. Its config.json defines the architecture."""

    expected_model: LlamaConfig | None = execution_only(default=None)
    """The shape that the base model must have; otherwise training fails before it starts. None: any."""

    hf_exports: Exporter | None = omitted_when(None, default=None)
    """Exports the model in Hugging Face format during training (`PeriodicExports`). None: no exports."""

    output_path: str = this_output_path()

    earlier_attempts: tuple[str, ...] = earlier_attempts()

    @classmethod
    def size(cls, config: Mapping[str, Any], inputs: SizesOfInputs) -> float:
        """Tokens to train on, times the bytes of the model."""
        tokens, rows = (total(inputs, "mixture", of=count) for count in ("tokens", "rows"))
        steps, batch = config.get("num_train_steps"), config.get("train_batch_size")
        if isinstance(steps, int) and isinstance(batch, int) and rows:
            trained = tokens * steps * batch / rows
        else:
            trained = tokens * float(config.get("num_train_epochs") or 1)
        stop = config.get("stop_after")
        if isinstance(stop, int) and isinstance(steps, int):
            stop = stop / steps
        share = stop if isinstance(stop, float) else 1.0
        return trained * min(1.0, share) * (total(inputs, "base_model") or 1.0)

    def advice(self, resources: Resources) -> str | None:
        on_cpus = not isinstance(resources, GpuConfig | TpuPodConfig)
        return None if on_cpus else "Whether the trainings fit into their devices' memory: marin-sft fit SCRIPT"

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        self.check_parts()
        if self.lora is not None and not unresolved(self.lora):
            shape = _known_shape(self.base_model, self.expected_model)
            if shape is not None:
                self.lora.check_layers(*shape)
        written = self.hf_exports_kept is None or self.hf_exports is not None
        require(self, "hf_exports_kept", written, "None without exports while training (steps_per_hf_export of a step)")
        kept = not self.save_optimizer_state or self.hf_exports is not None
        expected = "False without exports while training (steps_per_hf_export of a step), which keep it"
        require(self, "save_optimizer_state", kept, expected)

    def base(self) -> ModelDirectory:
        """The base model, with the positions of `rope_scaling`."""
        return ModelDirectory(self.base_model, self.rope_scaling)


def _known_shape(base_model: object, expected: LlamaConfig | None) -> tuple[str, int] | None:
    """Family and number of layers of the base model, if they are known before anything runs."""
    if expected is not None:
        return expected.model_type, expected.num_layers
    if not isinstance(base_model, str | Path):
        return None
    try:
        config = json.loads(Path(base_model, "config.json").read_text())
        return config["model_type"], int(config["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError):  # not local, or not a model: training reports that
        return None
