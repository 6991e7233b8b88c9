"""The usual settings of a training run, under Marin's names: see `defaults.default_train`."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.training_options import TrainingOptions
from marin_sft.errors import ConfigError
from marin_sft.execution.resources import Resources
from marin_sft.training.checks import check_types
from marin_sft.training.lora_config import LoraConfig

NEVER = -1


@dataclass(frozen=True, kw_only=True)
class SimpleTrainConfig(TrainingOptions):
    """The settings of `TrainingOptions`, and:

    resources: what training runs on; no part of its identity.

    train_batch_size: packed rows in a step, over all devices.
    num_train_steps, num_train_epochs: exactly one. An epoch is as many rows as the data hold.
    train_seq_len: tokens in a row; None: the model config's `max_seq_len`.
    warmup, decay: steps, or fractions of them, at the start and at the end, in which the rate rises from 0, and
    `lr_schedule` takes it to `min_lr_ratio * learning_rate`; a decay of None: all after the warmup.
    max_grad_norm: clipping; None: off. z_loss_weight, label_smoothing, neftune_noise_alpha: see `SFTConfig`.
    lora: train an adapter in place of all weights; None: all weights.
    per_device_parallelism: rows of a micro-batch on each device; -1: no accumulation.
    steps_per_eval: how often to measure the loss on validation data. steps_per_checkpoint: how often to keep state to
    resume from (every ten minutes besides). steps_per_hf_export: how often to write the model in Hugging Face format
    to `hf/step-N` of the output, and after the last step; None: as often as checkpoints; -1: never, as `steps.export`
    does it in a step of its own.
    hf_generation_eos_token_ids: ids that end an answer, for generation_config.json; None: those that the tokenizer and
    the chat template say.
    """

    resources: Resources
    train_batch_size: int
    learning_rate: float
    num_train_steps: int | None = None
    num_train_epochs: float | None = None
    train_seq_len: int | None = None
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    warmup: int | float = 0.01
    decay: int | float | None = None
    lr_schedule: str = "cosine"
    min_lr_ratio: float | None = 0.1
    max_grad_norm: float | None = 1.0
    z_loss_weight: float = 0.0
    label_smoothing: float = 0.0
    neftune_noise_alpha: float | None = None
    lora: LoraConfig | None = None
    seed: int = 0
    per_device_parallelism: int = -1
    steps_per_eval: int | None = 1000
    steps_per_checkpoint: int | None = 1000
    steps_per_hf_export: int | None = None
    hf_generation_eos_token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if (self.num_train_steps is None) == (self.num_train_epochs is None):
            raise ConfigError(
                f"{type(self).__name__}: num_train_steps={self.num_train_steps}, "
                f"num_train_epochs={self.num_train_epochs}; expected exactly one of them"
            )
        if self.hf_generation_eos_token_ids is not None and self.hf_cadence() == NEVER:
            raise ConfigError(
                f"{type(self).__name__}: hf_generation_eos_token_ids={self.hf_generation_eos_token_ids}, but training "
                "exports nothing; set steps_per_hf_export, or give the ids to steps.export"
            )

    def hf_cadence(self) -> int:
        """Steps between exports, or -1."""
        cadence = self.steps_per_checkpoint if self.steps_per_hf_export is None else self.steps_per_hf_export
        return NEVER if cadence is None else cadence
