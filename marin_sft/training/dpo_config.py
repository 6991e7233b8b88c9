"""The config of direct preference optimisation, and of the reference log-probabilities that it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marin_sft.execution.step import execution_only, omitted_when, this_output_path
from marin_sft.training.checks import check_types, require, unresolved
from marin_sft.training.dpo_loss_types import check_ld_alpha, check_loss_options, loss_weights_of
from marin_sft.training.precision import check_precision
from marin_sft.training.train_config import TrainConfig

NO_REFERENCE = ("sft", "simpo")
"""Losses that do not look at a reference."""


PAIR_FIELDS = (
    "reference_free",
    "ref_model_sync_steps",
    "ref_model_mixup_alpha",
    "loss_type",
    "beta",
    "label_smoothing",
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "discopop_tau",
    "simpo_gamma",
    "bco_delta",
    "ld_alpha",
    "use_weighting",
    "share_prefix",
)
"""The fields of `DPOConfig` that are about pairs and are no path."""


def needs_reference(loss_type: str | Sequence[str] | Mapping[str, float], reference_free: bool) -> bool:
    """Whether a training with such losses compares with a reference model."""
    names = {name for name, weight in loss_weights_of(loss_type).items() if weight}
    return not reference_free and not names <= set(NO_REFERENCE)


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """`model`: a Hugging Face directory whose log-probabilities of all pairs of `mixture` are wanted; with the PEFT
    adapter in directory `adapter`, where one is given.

    `precision`: as in `TrainConfig`. Without influence on the result but for rounding: batch_size, pairs at once.
    """

    mixture: str
    tokenized: dict[str, str]
    model: str
    adapter: str | None = omitted_when(None, default=None)
    precision: str = "bf16"
    output_path: str = this_output_path()
    batch_size: int = execution_only(default=16)

    def __post_init__(self) -> None:
        if not unresolved(self):
            check_types(self)
            check_precision(self)
            require(self, "batch_size", self.batch_size >= 1, "at least 1")


@dataclass(frozen=True, kw_only=True)
class DPOConfig(TrainConfig):
    """As `TrainConfig`; an example is a pair of completions of one prompt.

    reference_logprobs: output of a `reference_logprobs` step over the same mixture. reference_model: a Hugging Face
    directory to compute them from while training instead, held beside the policy. One of the two, unless no loss needs
    a reference or `reference_free` says to take a uniform one.
    ref_model_sync_steps: every so many steps, the reference model moves to a * policy + (1 - a) * reference with
    a = ref_model_mixup_alpha (TR-DPO, arXiv:2404.09656); None: never.
    loss_type: a loss of `dpo_loss_types`, or weights of several by name. beta, label_smoothing,
    f_divergence_type, f_alpha_divergence_coef, discopop_tau, simpo_gamma, bco_delta: see
    `dpo_losses.dpo_loss`.
    ld_alpha: weight of what a completion has beyond the length of the other one (LD-DPO); None: 1.
    use_weighting: weight pairs by how likely the policy finds them (WPO).

    Without influence on the result but for rounding: share_prefix, run the tokens of a prompt once for both (None: on a
    CPU, where leaving out what a branch cannot see costs nothing), unless the model has sliding windows; with dropout
    it has the influence of a seed;
    starts_at_reference, whether the reference is the base model: then the first step is checked to have rewards of 0.

    Raises:
        ConfigError: for a value that cannot be used.
    """

    reference_logprobs: str | None = None
    reference_model: str | None = None
    reference_free: bool = False
    ref_model_sync_steps: int | None = None
    ref_model_mixup_alpha: float = 0.6
    loss_type: str | Sequence[str] | Mapping[str, float] = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    discopop_tau: float = 0.05
    simpo_gamma: float = 0.5
    bco_delta: float = omitted_when(0.0, default=0.0)
    ld_alpha: float | None = None
    use_weighting: bool = False
    share_prefix: bool | None = execution_only(default=None)
    starts_at_reference: bool = execution_only(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if unresolved(self):
            return
        names = [name for name, weight in loss_weights_of(self.loss_type).items() if weight]
        check_loss_options(
            names,
            label_smoothing=self.label_smoothing,
            beta=self.beta,
            f_divergence_type=self.f_divergence_type,
            f_alpha_divergence_coef=self.f_alpha_divergence_coef,
            discopop_tau=self.discopop_tau,
            simpo_gamma=self.simpo_gamma,
            bco_delta=self.bco_delta,
            pair_weights=self.use_weighting,
        )
        if self.ld_alpha is not None:
            check_ld_alpha(self.ld_alpha)
        given = [name for name in ("reference_logprobs", "reference_model") if getattr(self, name) is not None]
        if self.reference_free:
            require(self, "reference_free", not given, f"False beside {' and '.join(given)}")
        elif needs_reference(self.loss_type, self.reference_free):
            one = "exactly one of reference_logprobs and reference_model, or reference_free=True"
            require(self, given[0] if given else "reference_logprobs", len(given) == 1, one)
        synced = self.ref_model_sync_steps
        require(self, "ref_model_sync_steps", synced is None or synced >= 1, "at least 1, or None")
        online = synced is None or self.reference_model is not None
        require(self, "ref_model_sync_steps", synced is None or self.lora is None, "None beside lora")
        require(self, "ref_model_sync_steps", online, "None without a reference_model: cached figures cannot move")
        require(self, "ref_model_mixup_alpha", 0 <= self.ref_model_mixup_alpha <= 1, "from 0 to 1")
