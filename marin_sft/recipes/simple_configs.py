"""Training settings under Marin's names and with its defaults, and their conversion to ours.

Settings with the same name in Marin are inherited from `TrainingSettings`. This module adds the names that only Marin
has, the methods that read them, and the defaults that differ. `arguments` is the only conversion to the arguments of
`steps.sft` and `steps.dpo`. It drops no field, see `conversion`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, get_args

from marin_sft.arguments import part_of_config
from marin_sft.data.data_configs import StopStrategy
from marin_sft.data.formats import check_choice
from marin_sft.errors import ConfigError
from marin_sft.execution.resources import Resources, TpuPodConfig
from marin_sft.inputs import Source
from marin_sft.recipes.conversion import Arguments, Converted, reads
from marin_sft.training.checks import check_types
from marin_sft.training.dpo_config import DPOSettings
from marin_sft.training.dpo_loss_types import loss_weights_of
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.other_names import OF_DEFAULTS
from marin_sft.training.sft_config import Terms
from marin_sft.training.train_config import TrainingSettings

NEVER = -1
DEFAULT_STEPS = 10_000
DEFAULT_LORA: Arguments = {"r": 8, "alpha": 16, "dropout": 0.05}
_STOP_STRATEGIES = {"exit": "first_exhausted"}


@part_of_config
class SimpleConfig(Converted, TrainingSettings):
    """What `SimpleTrainConfig`, `SimpleSFTConfig` and `SimpleDPOConfig` share. Types are checked here, and
    contradictions between Marin's names; values are checked by the step's config. To subclass it, see `Converted`.

    Raises:
        ConfigError: settings that contradict each other; a subclass with a field that would be dropped.
    """

    resources: Resources | None = None
    """What training runs on. Not part of the step's identity."""

    steps_per_eval = 1000
    steps_per_checkpoint: int | None = 1000

    steps_per_hf_export: int | None = None
    """Steps between exports in Hugging Face format, to `hf/step-N` of the output. The last step is always exported.
    None: as often as checkpoints. -1: never; `steps.export` exports in a separate step."""

    hf_generation_eos_token_ids: Sequence[int] | None = None
    """Ids that end an answer, for generation_config.json. None: from the tokenizer and the chat template."""

    def __post_init__(self) -> None:
        self.check_declared()
        check_types(self)
        self.arguments()

    def arguments(self) -> Arguments:
        """Arguments of `steps.sft` or `steps.dpo`, except names, data and models."""
        same = {name: getattr(self, name) for name in self.fields_of_target()}
        return {**same, **self.length(), **self.exports(), "resources": self.hardware()}

    @reads("resources")
    def hardware(self) -> Resources:
        """What training runs on."""
        if self.resources is None:
            raise self.contradiction("resources", expected="what training runs on, e.g. resources=CpuConfig()")
        return self.resources

    def length(self) -> Arguments:
        """`num_train_steps` or `num_train_epochs`."""
        if (self.num_train_steps is None) == (self.num_train_epochs is None):
            raise self.contradiction("num_train_steps", "num_train_epochs", expected="exactly one of them")
        return {"num_train_steps": self.num_train_steps, "num_train_epochs": self.num_train_epochs}

    @reads("steps_per_hf_export", "hf_generation_eos_token_ids")
    def exports(self) -> Arguments:
        """Exports during training, as arguments of `steps.sft`."""
        cadence = self.steps_per_checkpoint if self.steps_per_hf_export is None else self.steps_per_hf_export
        ends = self.hf_generation_eos_token_ids
        if ends is not None and cadence in (None, NEVER):
            raise ConfigError(
                f"{type(self).__name__}: hf_generation_eos_token_ids={ends}, but training exports nothing; set "
                "steps_per_hf_export, or give the ids to steps.export"
            )
        return {"steps_per_hf_export": NEVER if cadence is None else cadence, "hf_generation_eos_token_ids": ends}


@dataclass(frozen=True, kw_only=True)
class SimpleTrainConfig(SimpleConfig, Terms):
    """Settings of `default_train`: those of `TrainingSettings`, `Terms` and `SimpleConfig`, and one more.

    Raises:
        ConfigError: settings that contradict each other.
    """

    train_seq_len: int | None = None
    """Tokens in a row. None: the model config's `max_seq_len`."""

    weight_decay = 0.1
    warmup = 0.01

    @reads("train_seq_len")
    def seq_len(self) -> int | None:
        """Tokens in a row. None: the model config decides."""
        return self.train_seq_len


@part_of_config
class FineTuning(SimpleConfig):
    """What `SimpleSFTConfig` and `SimpleDPOConfig` share.

    Raises:
        ConfigError: settings that contradict each other, or that are refused.
    """

    OTHER_NAMES: ClassVar[Mapping[str, str]] = OF_DEFAULTS

    tpu_type: str | None = None
    """Instead of `resources`: a TPU slice, "v4-128"."""

    node_count: int | None = None
    """The number of slices. None: that of `resources`, else 1."""

    train_batch_size: int = 128
    lr_schedule = "linear"
    min_lr_ratio: float = 0.0
    steps_per_hf_export = 500
    reinit_tokens: Sequence[str] | bool | None = ()  # type: ignore[assignment]  # Marin's type; see `_reinit_tokens`

    cooldown: int | float | None = None
    """Another name of `decay`; 0 is None."""

    model_name_or_path: Source | None = None
    """The model to start from: a hub id "org/name" or "org/name@revision" (see `hub_revisions`), the directory of a
    Hugging Face model, or a step whose output is one."""

    initialize_from_hf: Source | bool | None = None
    """Another name of `model_name_or_path`. True: start from `model_name_or_path`. False: start from
    `initialize_from_checkpoint_path`."""

    initialize_from_checkpoint_path: Source | None = None
    """The model to start from: a training step (its `model` is used), or the directory of its model."""

    tokenizer: Source | None = None
    """The tokenizer that the data must have been tokenized with. None: not checked."""

    max_seq_len: int = 4096
    """Tokens in a packed row; for pairs, the most tokens of a prompt and one completion together."""

    use_lora: bool = False
    """Another spelling of `lora`, with the next three fields."""

    lora_r: int | None = None
    """None: 8."""

    lora_alpha: float | None = None
    """None: 16."""

    lora_dropout: float | None = None
    """None: 0.05."""

    def __post_init__(self) -> None:
        if not isinstance(self.train_batch_size, int):
            raise ConfigError(
                f"{type(self).__name__}.train_batch_size={self.train_batch_size!r}: expected a whole number of rows; "
                "the batch size does not change during training"
            )
        super().__post_init__()
        self.base_model()

    def arguments(self) -> Arguments:
        return {
            **super().arguments(),
            "decay": self._decay(),
            "min_lr_ratio": self._min_lr_ratio(),
            "reinit_tokens": self._reinit_tokens(),
            "lora": self._lora(),
        }

    @reads("tpu_type", "node_count")
    def hardware(self) -> Resources:
        """`resources`, or the slices of `tpu_type`."""
        if (self.resources is None) == (self.tpu_type is None):
            expected = "exactly one of them, e.g. tpu_type='v4-8', or resources=CpuConfig()"
            raise self.contradiction("resources", "tpu_type", expected=expected)
        if self.tpu_type is not None:
            return TpuPodConfig(tpu_type=self.tpu_type, slice_count=self.node_count or 1)
        assert self.resources is not None
        slices = getattr(self.resources, "slice_count", 1)
        if self.node_count in (None, slices):
            return self.resources
        if not isinstance(self.resources, TpuPodConfig) or slices != 1:
            expected = "node_count=None: the resources say how many slices"
            raise self.contradiction("node_count", "resources", expected=expected)
        return dataclasses.replace(self.resources, slice_count=self.node_count or 1)

    @reads("model_name_or_path", "initialize_from_hf", "initialize_from_checkpoint_path")
    def base_model(self) -> Source:
        """The model to start from: a hub id, a directory, or a step."""
        checkpoint, named = self.initialize_from_checkpoint_path, self.model_name_or_path
        hf = checkpoint is None if self.initialize_from_hf is None else self.initialize_from_hf
        if hf is False:
            # As in Marin, both may be given. The checkpoint holds all that is needed of its base model.
            chosen, contradicts = checkpoint, False
        else:
            chosen = named if hf is True else hf
            contradicts = checkpoint is not None or named not in (None, chosen)
        if chosen is None or contradicts:
            raise self.contradiction(
                "initialize_from_hf",
                "model_name_or_path",
                "initialize_from_checkpoint_path",
                expected="one model to start from, e.g. model_name_or_path='meta-llama/Llama-3.1-8B'; for random "
                "weights, use default_train",
            )
        return chosen

    @reads("tokenizer")
    def tokenization(self) -> Arguments:
        """How the data must have been tokenized, by the names in their format. None: not checked."""
        return {"tokenizer": self.tokenizer, "input_role": None, "output_role": None}

    @reads("max_seq_len")
    def seq_len(self) -> int:
        """Tokens in a row, or in a branch of a pair."""
        return self.max_seq_len

    @reads("cooldown")
    def _decay(self) -> int | float | None:
        if self.decay is not None and self.cooldown:
            raise self.contradiction("decay", "cooldown", expected="one of them: they are two names of one setting")
        return self.decay if self.decay is not None else self.cooldown or None

    def _min_lr_ratio(self) -> float | None:
        """None if `learning_rate_end` is set and `min_lr_ratio` is not."""
        unsaid = self.learning_rate_end is not None and self.min_lr_ratio == FineTuning.min_lr_ratio
        return None if unsaid else self.min_lr_ratio

    def _reinit_tokens(self) -> tuple[str, ...]:
        if self.reinit_tokens is True:  # Marin's type; there, False means no tokens
            raise ConfigError(
                f"{type(self).__name__}.reinit_tokens=True: which tokens to initialise depends on the model; "
                "expected a list of them, e.g. ['<|start_header_id|>']"
            )
        return tuple(self.reinit_tokens or ())

    @reads("use_lora", "lora_r", "lora_alpha", "lora_dropout")
    def _lora(self) -> LoraConfig | None:
        settings = {"r": self.lora_r, "alpha": self.lora_alpha, "dropout": self.lora_dropout}
        given = {name: value for name, value in settings.items() if value is not None}
        if (given and not self.use_lora) or (self.use_lora and self.lora is not None):
            names = ("lora", "use_lora", "lora_r", "lora_alpha", "lora_dropout")
            raise self.contradiction(*names, expected="lora alone, or use_lora=True")
        return LoraConfig(**{**DEFAULT_LORA, **given}) if self.use_lora else self.lora


@dataclass(frozen=True, kw_only=True)
class SimpleSFTConfig(FineTuning, Terms):
    """Settings of `default_sft`: those of `TrainingSettings`, `Terms`, `SimpleConfig` and `FineTuning`, and those
    below. Without `num_train_steps` and `num_train_epochs`, training takes 10,000 steps.

    Raises:
        ConfigError: settings that contradict each other, or that are refused.
    """

    learning_rate: float = 5e-6
    max_grad_norm = None

    input_role: str | None = None
    """What `input_field` of the data's format must be. None: not checked."""

    output_role: str | None = None
    """What `output_field` of the data's format must be. None: not checked."""

    mixture_block_size: int | None = None
    """See `LmDataConfig`. None: that of the mixture. Makes no difference for one dataset."""

    stop_strategy: str | None = None
    """See `LmDataConfig`; "exit" is "first_exhausted". None: that of the mixture."""

    pad_tokenizer_to_match_model: bool = True
    """Must be True: a model with more embeddings than the tokenizer has tokens keeps them."""

    int8: bool = False
    """Must be False: there is no int8 training."""

    @reads("int8", "pad_tokenizer_to_match_model")
    def arguments(self) -> Arguments:
        if self.int8:
            raise self.contradiction("int8", expected="False: there is no int8 training, bfloat16 is used")
        if not self.pad_tokenizer_to_match_model:
            expected = "True: a model's embeddings are never cut down to the tokenizer"
            raise self.contradiction("pad_tokenizer_to_match_model", expected=expected)
        return super().arguments()

    def length(self) -> Arguments:
        if self.num_train_steps is None and self.num_train_epochs is None:
            return {"num_train_steps": DEFAULT_STEPS}
        return super().length()

    @reads("input_role", "output_role")
    def tokenization(self) -> Arguments:
        return {**super().tokenization(), "input_role": self.input_role, "output_role": self.output_role}

    @reads("mixture_block_size", "stop_strategy")
    def mixing(self) -> Arguments:
        """Settings of the mixture. None: left as it is."""
        stops = self.stop_strategy
        known = (*get_args(StopStrategy), *_STOP_STRATEGIES)
        check_choice(f"{type(self).__name__}.stop_strategy", stops, (None, *known))
        return {
            "stop_strategy": None if stops is None else _STOP_STRATEGIES.get(stops, stops),
            "mixture_block_size": self.mixture_block_size,
        }


@dataclass(frozen=True, kw_only=True)
class SimpleDPOConfig(FineTuning, DPOSettings):
    """Settings of `default_dpo`: those of `TrainingSettings`, `DPOSettings`, `SimpleConfig` and `FineTuning`, and those
    below. Examples are pairs. Without `num_train_steps` and epochs, training takes one epoch.

    Raises:
        ConfigError: settings that contradict each other.
    """

    learning_rate: float = 1e-6
    warmup = 0.0
    steps_per_eval = 100

    num_epochs: float | None = None
    """Another name of `num_train_epochs`."""

    loss_weights: Sequence[float] | None = None
    """TRL's spelling of a weighted sum: `loss_type` is a list. None: 1 each."""

    reference_model_path: Source | None = None
    """The model to compare with, as `model_name_or_path`. None: the model to start from."""

    train_seq_len: int | None = None
    """Another name of `max_seq_len`."""

    max_prompt_length: int | None = None
    """The most tokens of a prompt, see `MixtureConfig`."""

    max_completion_length: int | None = None
    """The most tokens of a completion, see `MixtureConfig`."""

    validation_split_fraction: float = 0.1
    """Share of the pairs of each dataset to hold out for evaluation, unless the data define it. 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.held_out()

    @reads("loss_weights")
    def arguments(self) -> Arguments:
        weights = loss_weights_of(self.loss_type, self.loss_weights)
        one = len(weights) == 1 and next(iter(weights.values())) == 1
        return {**super().arguments(), "loss_type": next(iter(weights)) if one else weights}

    @reads("num_epochs")
    def length(self) -> Arguments:
        given = [n for n in (self.num_train_steps, self.num_train_epochs, self.num_epochs) if n is not None]
        if len(given) > 1:
            raise self.contradiction(
                "num_train_steps", "num_train_epochs", "num_epochs", expected="at most one of them"
            )
        if self.num_train_steps is not None:
            return {"num_train_steps": self.num_train_steps}
        return {"num_train_epochs": given[0] if given else 1.0}

    @reads("train_seq_len")
    def seq_len(self) -> int:
        return self.max_seq_len if self.train_seq_len is None else self.train_seq_len

    @reads("max_prompt_length", "max_completion_length")
    def lengths(self) -> Arguments:
        """Limits on the tokens of a pair, by the names in `MixtureConfig`."""
        return {
            "seq_len": self.seq_len(),
            "max_prompt_length": self.max_prompt_length,
            "max_completion_length": self.max_completion_length,
        }

    @reads("validation_split_fraction")
    def held_out(self) -> float:
        """Share of the pairs to hold out of training."""
        share = self.validation_split_fraction
        if not 0 <= share < 1:
            raise self.contradiction("validation_split_fraction", expected="from 0 to below 1")
        return share

    @reads("reference_model_path")
    def reference(self) -> Source | None:
        """The model to compare with. None: the model to start from."""
        return self.reference_model_path
