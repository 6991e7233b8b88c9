"""The config of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.execution.step import StepConfig, omitted_when
from marin_sft.training.checks import require, unresolved
from marin_sft.training.metrics.reporting import LOG
from marin_sft.training.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Terms added to a token's NLL, log Z - z[target], where Z is the sum of exp(z) over the logits z. The validation
    loss does not have them."""

    z_loss_weight: float = 0.0
    """Weight of log(Z)^2 (PaLM, arXiv 2204.02311)."""

    label_smoothing: float = omitted_when(0.0, default=0.0)
    """With e > 0, the NLL becomes log Z - (1 - e) z[target] - e mean(z): the target distribution has 1 - e + e / V for
    the right one of V tokens, and e / V for the others."""

    neftune_noise_alpha: float | None = omitted_when(None, default=None)
    """Scale of the noise added to embeddings, see `neftune`. None: no noise."""

    def check_terms(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        require(self, "z_loss_weight", self.z_loss_weight >= 0, "at least 0")
        require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "from 0 to below 1")
        alpha = self.neftune_noise_alpha
        require(self, "neftune_noise_alpha", alpha is None or alpha > 0, "above 0 (5 is usual), or None")


@dataclass(frozen=True, kw_only=True)
class SFTConfig(
    Terms,
    TrainConfig,
    StepConfig,
    kind="sft",
    version=4,
    body="marin_sft.training.sft:sft",
    fresh_process=True,
    torch=False,
    log=LOG,
):
    """As `TrainConfig`; an example is a packed row.

    Raises:
        ConfigError: for a value that cannot be used.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not unresolved(self):
            self.check_terms()
