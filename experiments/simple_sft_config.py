"""The settings of supervised fine-tuning that users of Marin know, in its older and its newer spellings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from experiments.fine_tuning import FineTuning
from experiments.simple_train_config import SimpleTrainConfig
from marin_sft.errors import ConfigError

DEFAULT_STEPS = 10_000
DEFAULT_MIN_LR_RATIO = 0.0
_STOP_STRATEGIES = {"exit": "first_exhausted"}


@dataclass(frozen=True, kw_only=True)
class SimpleSFTConfig(FineTuning):
    """What `default_sft` trains with: the settings of `TrainingOptions`, and those below. Where two names stand in a
    line, they are two spellings of one setting.

    Hardware, which is no part of a step's identity:
    resources | tpu_type with node_count: what training runs on, "v4-128" with the number of slices.
    per_device_parallelism: rows of a micro-batch on each device; -1: no accumulation.

    The model to start from, exactly one:
    initialize_from_hf | model_name_or_path: a hub id "org/name" or "org/name@revision" (see `hub_revisions`), the
    directory of a Hugging Face model, or a step whose output is one. `initialize_from_hf` may also be True or False:
    whether it is that of `model_name_or_path`, or that of `initialize_from_checkpoint_path`.
    initialize_from_checkpoint_path: a training step (whose output's `model` it is), or the directory of its model.
    pad_tokenizer_to_match_model: True is what is always done: a model with more embeddings than the tokenizer has
    tokens keeps them.

    The data, which must be tokenized as is said here; None: not checked:
    tokenizer: the one that they were tokenized with. input_role, output_role: `input_field` and `output_field` of
    their format.
    max_seq_len: tokens in a packed row. mixture_block_size, stop_strategy ("exit" is "first_exhausted"): see
    `LmDataConfig`; None: as the mixture says. One dataset alone has no use for a block size.

    Training:
    num_train_steps | num_train_epochs: at most one; without, 10,000 steps.
    warmup: steps, or the fraction of them, in which the rate rises from 0.
    decay | cooldown: steps, or the fraction of them, at the end, in which the rate falls; None (a cooldown of 0): all
    after the warmup. min_lr_ratio | learning_rate_end: to which share of the rate, or to which rate.
    z_loss_weight, label_smoothing, neftune_noise_alpha, max_grad_norm, lr_schedule, weight_decay, beta1, beta2: see
    `SFTConfig`.
    steps_per_eval, steps_per_checkpoint, steps_per_hf_export, hf_generation_eos_token_ids: see `SimpleTrainConfig`.
    lora, a `LoraConfig` | use_lora with lora_r (None: 8), lora_alpha (None: 16) and lora_dropout (None: 0.05): train an
    adapter in place of all weights.
    seed: of the order of the data; also in the step's name.

    Refused, since training has nothing for it: int8.

    Raises:
        ConfigError: settings that contradict each other, or that are refused.
    """

    learning_rate: float = 5e-6

    pad_tokenizer_to_match_model: bool = True
    input_role: str | None = None
    output_role: str | None = None

    warmup: int | float = 0.03
    min_lr_ratio: float = DEFAULT_MIN_LR_RATIO
    max_grad_norm: float | None = None
    z_loss_weight: float = 0.0
    label_smoothing: float = 0.0
    neftune_noise_alpha: float | None = None

    steps_per_eval: int | None = 1000

    mixture_block_size: int | None = None
    stop_strategy: str | None = None

    int8: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_what_training_has_not()
        self.train_config()

    def train_config(self) -> SimpleTrainConfig:
        """The settings that are not about fine-tuning."""
        same = {field.name for field in dataclasses.fields(SimpleTrainConfig)} & self.__dict__.keys()
        given: dict[str, Any] = {name: getattr(self, name) for name in same}
        ends = self.hf_generation_eos_token_ids
        given |= {
            "resources": self.hardware(),
            "train_seq_len": self.max_seq_len,
            "decay": self._decay(),
            "lora": self._lora(),
            "reinit_tokens": () if isinstance(self.reinit_tokens, bool) else tuple(self.reinit_tokens or ()),
            "min_lr_ratio": self._min_lr_ratio(),
            "hf_generation_eos_token_ids": None if ends is None else tuple(ends),
        }
        if self.num_train_steps is None and self.num_train_epochs is None:
            given["num_train_steps"] = DEFAULT_STEPS
        return SimpleTrainConfig(**given)

    def stops(self) -> str | None:
        """`stop_strategy` in our words."""
        return None if self.stop_strategy is None else _STOP_STRATEGIES.get(self.stop_strategy, self.stop_strategy)

    def _min_lr_ratio(self) -> float | None:
        """None where `learning_rate_end` says it, and nothing else was said."""
        unsaid = self.learning_rate_end is not None and self.min_lr_ratio == DEFAULT_MIN_LR_RATIO
        return None if unsaid else self.min_lr_ratio

    def _refuse_what_training_has_not(self) -> None:
        if self.int8:
            raise ConfigError("SimpleSFTConfig.int8=True: there is no int8 training; leave it out: bfloat16 is used")
        if not self.pad_tokenizer_to_match_model:
            raise ConfigError(
                "SimpleSFTConfig.pad_tokenizer_to_match_model=False: a model's embeddings are never cut down to the "
                "tokenizer; leave it out"
            )
