"""The settings of direct preference optimisation that users of Marin know, and those that its losses bring."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.fine_tuning import FineTuning
from experiments.simple_sft_config import SimpleSFTConfig
from marin_sft.errors import ConfigError
from marin_sft.steps import Source
from marin_sft.training.dpo_config import PAIR_FIELDS
from marin_sft.training.dpo_loss_types import loss_weights_of


@dataclass(frozen=True, kw_only=True)
class SimpleDPOConfig(FineTuning):
    """What `default_dpo` trains with: the settings of `TrainingOptions`, and those below. Where two names stand in a
    line, they are two spellings of one setting.

    resources | tpu_type with node_count, per_device_parallelism (here pairs), model_name_or_path, initialize_from_hf,
    initialize_from_checkpoint_path, tokenizer, weight_decay, beta1, beta2, warmup, decay | cooldown, lr_schedule,
    min_lr_ratio, max_grad_norm, steps_per_eval, steps_per_checkpoint, steps_per_hf_export,
    hf_generation_eos_token_ids, lora | use_lora, lora_r, lora_alpha, lora_dropout, seed: see `SimpleSFTConfig`.

    train_batch_size: pairs in a step, over all devices.
    num_train_steps | num_train_epochs | num_epochs: at most one; without, one epoch.
    max_seq_len | train_seq_len: the most tokens that a prompt and one completion have together; max_prompt_length and
    max_completion_length: the most of each; see `MixtureConfig`.
    validation_split_fraction: share of the pairs of each dataset to keep out for evaluation, unless the data say
    themselves what is; 0: none.

    reference_model_path: the model to compare with, as model_name_or_path; None: the model to start from.
    reference_free, ref_model_sync_steps, ref_model_mixup_alpha, beta, loss_type, label_smoothing, f_divergence_type,
    f_alpha_divergence_coef, discopop_tau, simpo_gamma, bco_delta, ld_alpha, use_weighting, share_prefix: see
    `DPOConfig`.
    loss_type may be a list, with loss_weights (TRL's spelling of a weighted sum; None: 1 each).

    Raises:
        ConfigError: settings that contradict each other.
    """

    num_epochs: float | None = None
    learning_rate: float = 1e-6

    train_seq_len: int | None = None
    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    validation_split_fraction: float = 0.1

    reference_model_path: Source | None = None
    reference_free: bool = False
    ref_model_sync_steps: int | None = None
    ref_model_mixup_alpha: float = 0.6
    beta: float = 0.1
    loss_type: str | Sequence[str] | Mapping[str, float] = "sigmoid"
    loss_weights: Sequence[float] | None = None
    label_smoothing: float = 0.0
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    discopop_tau: float = 0.05
    simpo_gamma: float = 0.5
    bco_delta: float = 0.0
    ld_alpha: float | None = None
    use_weighting: bool = False
    share_prefix: bool | None = None

    warmup: int | float = 0.0
    min_lr_ratio: float = 0.0
    max_grad_norm: float | None = 1.0

    steps_per_eval: int | None = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        self.shared()
        share = self.validation_split_fraction
        if not 0 <= share < 1:
            raise ConfigError(f"SimpleDPOConfig.validation_split_fraction={share}; expected from 0 to below 1")

    def shared(self) -> SimpleSFTConfig:
        """The settings that supervised fine-tuning has, too."""
        same = ({field.name for field in dataclasses.fields(SimpleSFTConfig)} & self.__dict__.keys()) - {*PAIR_FIELDS}
        given: dict[str, Any] = {name: getattr(self, name) for name in same}
        epochs = [e for e in (self.num_train_epochs, self.num_epochs) if e is not None]
        if len(epochs) > 1 or (epochs and self.num_train_steps is not None):
            raise ConfigError(
                f"SimpleDPOConfig: num_train_steps={self.num_train_steps}, num_train_epochs={self.num_train_epochs}, "
                f"num_epochs={self.num_epochs}; expected at most one of them"
            )
        if not epochs and self.num_train_steps is None:
            epochs = [1.0]
        return SimpleSFTConfig(
            **{**given, "num_train_epochs": epochs[0] if epochs else None, "max_seq_len": self.longest()}
        )

    def longest(self) -> int:
        """Tokens that a prompt and one completion have together, at most."""
        return self.max_seq_len if self.train_seq_len is None else self.train_seq_len

    def pair_settings(self) -> dict[str, Any]:
        """The fields that `DPOConfig` has under the same names; the losses as weights by name."""
        weights = loss_weights_of(self.loss_type, self.loss_weights)
        one = len(weights) == 1 and next(iter(weights.values())) == 1
        given = {name: getattr(self, name) for name in PAIR_FIELDS}
        return {**given, "loss_type": next(iter(weights)) if one else weights}
