"""The configs of direct preference optimisation and of the reference log-probabilities that it uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marin_sft.arguments import part_of_config
from marin_sft.execution.step import (
    SizesOfInputs,
    StepConfig,
    execution_only,
    omitted_when,
    this_output_path,
    total,
)
from marin_sft.training.checks import check_types, require, unresolved
from marin_sft.training.dpo_loss_types import LOSS_TYPES, LossOptions
from marin_sft.training.metrics.reporting import LOG
from marin_sft.training.models.rope_scaling import RopeSettings
from marin_sft.training.precision import PrecisionSettings
from marin_sft.training.train_config import TrainConfig


def needs_reference(loss_type: str | Sequence[str] | Mapping[str, float], reference_free: bool) -> bool:
    """Whether these losses compare with a reference model."""
    names = LossOptions(loss_type=loss_type).weights()
    return not reference_free and any(LOSS_TYPES[name].reference for name in names)


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig(
    PrecisionSettings,
    RopeSettings,
    StepConfig,
    kind="reference_logprobs",
    version=2,
    body="marin_sft.training.reference:reference_logprobs",
    fresh_process=True,
    torch=False,
):
    """The log-probabilities of all pairs of a mixture under a fixed model.

    Raises:
        ConfigError: for a value that cannot be used.
    """

    mixture: str
    """Output of a mixture step that holds pairs."""

    tokenized: dict[str, str]
    """Outputs of tokenize steps, by the mixture's component names."""

    model: str
    """A Hugging Face directory."""

    adapter: str | None = omitted_when(None, default=None)
    """The directory of a PEFT adapter to apply to the model. None: no adapter."""

    output_path: str = this_output_path()

    batch_size: int = execution_only(default=16)
    """Pairs per batch. It changes the result by rounding only."""

    @classmethod
    def size(cls, config: Mapping[str, Any], inputs: SizesOfInputs) -> float:
        """Tokens of the mixture, times the bytes of the model."""
        return total(inputs, "mixture", of="tokens") * (total(inputs, "model") or 1.0)

    def __post_init__(self) -> None:
        if not unresolved(self):
            check_types(self)
            self.check_precision()
            self.check_rope()
            require(self, "batch_size", self.batch_size >= 1, "at least 1")


@part_of_config
class DPOSettings(LossOptions):
    """Settings of training on pairs: the losses, and the reference that they compare with."""

    reference_free: bool = False
    """Compare with a uniform distribution instead of a reference model."""

    ref_model_sync_steps: int | None = None
    """Move the reference model towards the policy every this many steps (TR-DPO, arXiv:2404.09656). None: never."""

    ref_model_mixup_alpha: float = 0.6
    """The a in the new reference, a * policy + (1 - a) * reference."""

    share_prefix: bool | None = execution_only(default=None)
    """Run the tokens of a prompt once for both completions. None: on a CPU, where that costs nothing, unless the model
    has sliding windows, which do not allow it. It changes the result by rounding only; with dropout, it acts like a
    seed."""

    def check_pairs(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        self.check_losses()
        synced = self.ref_model_sync_steps
        require(self, "ref_model_sync_steps", synced is None or synced >= 1, "at least 1, or None")
        require(self, "ref_model_mixup_alpha", 0 <= self.ref_model_mixup_alpha <= 1, "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class DPOConfig(
    DPOSettings,
    TrainConfig,
    StepConfig,
    kind="dpo",
    version=3,
    body="marin_sft.training.dpo:dpo",
    fresh_process=True,
    torch=False,
    log=LOG,
):
    """As `TrainConfig`; an example is a pair of completions of one prompt.

    Exactly one of `reference_logprobs` and `reference_model` is required, unless no loss needs a reference or
    `reference_free` is set.

    Raises:
        ConfigError: for a value that cannot be used.
    """

    reference_logprobs: str | None = None
    """Output of a `reference_logprobs` step over the same mixture."""

    reference_model: str | None = None
    """A Hugging Face directory. The reference model is held in memory with the policy, and runs in every step."""

    starts_at_reference: bool = execution_only(default=False)
    """Whether the reference is the base model. If so, the rewards of the first step are checked to be 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unresolved(self):
            return
        self.check_pairs()
        given = [name for name in ("reference_logprobs", "reference_model") if getattr(self, name) is not None]
        if self.reference_free:
            require(self, "reference_free", not given, f"False, or no {' and '.join(given)}")
        elif needs_reference(self.loss_type, self.reference_free):
            one = "exactly one of reference_logprobs and reference_model, or reference_free=True"
            require(self, given[0] if given else "reference_logprobs", len(given) == 1, one)
        fixed = self.ref_model_sync_steps is None
        require(self, "ref_model_sync_steps", fixed or self.lora is None, "None with lora")
        online = fixed or self.reference_model is not None
        require(self, "ref_model_sync_steps", online, "None without a reference_model: cached figures cannot move")
