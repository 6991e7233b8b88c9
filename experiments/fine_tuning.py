"""The settings that `SimpleSFTConfig` and `SimpleDPOConfig` have alike; what they mean, the first of the two says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.training_options import TrainingOptions
from marin_sft.errors import ConfigError
from marin_sft.execution.resources import Resources, TpuPodConfig
from marin_sft.inputs import Source
from marin_sft.training.checks import check_types
from marin_sft.training.lora_config import LoraConfig

DEFAULT_LORA: dict[str, Any] = {"r": 8, "alpha": 16, "dropout": 0.05}


@dataclass(frozen=True, kw_only=True)
class FineTuning(TrainingOptions):
    """See `SimpleSFTConfig`.

    Raises:
        ConfigError: settings that contradict each other, or that are refused.
    """

    resources: Resources | None = None
    tpu_type: str | None = None
    node_count: int | None = None

    train_batch_size: int = 128
    num_train_steps: int | None = None
    num_train_epochs: float | None = None

    tokenizer: Source | None = None
    model_name_or_path: Source | None = None
    initialize_from_hf: Source | bool | None = None
    initialize_from_checkpoint_path: Source | None = None
    max_seq_len: int = 4096

    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    decay: int | float | None = None
    cooldown: int | float | None = None
    lr_schedule: str = "linear"

    steps_per_checkpoint: int | None = 1000
    steps_per_hf_export: int | None = 500
    hf_generation_eos_token_ids: Sequence[int] | None = None

    lora: LoraConfig | None = None
    use_lora: bool = False
    lora_r: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None

    per_device_parallelism: int = -1
    seed: int = 0

    def __post_init__(self) -> None:
        where = type(self).__name__
        if self.reinit_tokens is True:  # Marin's type; False is no tokens there
            raise ConfigError(
                f"{where}.reinit_tokens=True: which tokens are to be made anew depends on the model; expected a list "
                "of them, e.g. ['<|start_header_id|>']"
            )
        if not isinstance(self.train_batch_size, int):
            raise ConfigError(
                f"{where}.train_batch_size={self.train_batch_size!r}: expected a whole number of rows; the batch size "
                "does not change during training"
            )
        check_types(self)
        self.hardware()
        self.base_model()
        self._decay()
        self._lora()

    def hardware(self) -> Resources:
        """`resources`, or the slices of `tpu_type`."""
        if (self.resources is None) == (self.tpu_type is None):
            raise self._contradiction(
                "resources", "tpu_type", expected="exactly one of them, e.g. tpu_type='v4-8', or resources=CpuConfig()"
            )
        if self.tpu_type is not None:
            return TpuPodConfig(tpu_type=self.tpu_type, slice_count=self.node_count or 1)
        assert self.resources is not None
        slices = getattr(self.resources, "slice_count", 1)
        if self.node_count in (None, slices):
            return self.resources
        if not isinstance(self.resources, TpuPodConfig) or slices != 1:
            raise self._contradiction(
                "node_count", "resources", expected="node_count=None: the resources say how many slices"
            )
        return dataclasses.replace(self.resources, slice_count=self.node_count or 1)

    def base_model(self) -> Source:
        """The model to start from: a hub id, a directory, or a step."""
        checkpoint, named = self.initialize_from_checkpoint_path, self.model_name_or_path
        hf = checkpoint is None if self.initialize_from_hf is None else self.initialize_from_hf
        if hf is False:
            # As in Marin, the name may stand beside the checkpoint, which has all that is needed of its base model.
            chosen, contradicts = checkpoint, False
        else:
            chosen = named if hf is True else hf
            contradicts = checkpoint is not None or named not in (None, chosen)
        if chosen is None or contradicts:
            raise self._contradiction(
                "initialize_from_hf",
                "model_name_or_path",
                "initialize_from_checkpoint_path",
                expected="one model to start from, e.g. model_name_or_path='meta-llama/Llama-3.1-8B'; for random "
                "weights, use default_train",
            )
        return chosen

    def _decay(self) -> int | float | None:
        if self.decay is not None and self.cooldown:
            raise self._contradiction("decay", "cooldown", expected="one of them: they are two names of one setting")
        return self.decay if self.decay is not None else self.cooldown or None

    def _lora(self) -> LoraConfig | None:
        settings = {"r": self.lora_r, "alpha": self.lora_alpha, "dropout": self.lora_dropout}
        given = {name: value for name, value in settings.items() if value is not None}
        if (given and not self.use_lora) or (self.use_lora and self.lora is not None):
            raise self._contradiction(
                "lora", "use_lora", "lora_r", "lora_alpha", "lora_dropout", expected="lora alone, or use_lora=True"
            )
        return LoraConfig(**{**DEFAULT_LORA, **given}) if self.use_lora else self.lora

    def _contradiction(self, *fields: str, expected: str) -> ConfigError:
        got = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields)
        return ConfigError(f"{type(self).__name__}: {got}; expected {expected}")
