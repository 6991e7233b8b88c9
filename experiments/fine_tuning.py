"""The settings that `SimpleSFTConfig` and `SimpleDPOConfig` have alike; what they mean, the first of the two says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.training_options import TrainingOptions
from marin_sft.execution.resources import Resources
from marin_sft.steps import Source
from marin_sft.training.lora_config import LoraConfig


@dataclass(frozen=True, kw_only=True)
class FineTuning(TrainingOptions):
    """See `SimpleSFTConfig`."""

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
