"""The config of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.execution.step import omitted_when
from marin_sft.training.checks import require, unresolved
from marin_sft.training.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class SFTConfig(TrainConfig):
    """As `TrainConfig`; an example is a packed row.

    z_loss_weight: of the square of each trained token's log normaliser, added to its NLL (PaLM, arXiv 2204.02311).
    label_smoothing: e, by which a token's target is 1 - e + e / V for the right one of V tokens, and e / V for others.
    neftune_noise_alpha: of the noise on the embeddings in training, see `neftune`; None: none.

    The loss on validation examples has none of them.

    Raises:
        ConfigError: for a value that cannot be used.
    """

    z_loss_weight: float = 0.0
    label_smoothing: float = omitted_when(0.0, default=0.0)
    neftune_noise_alpha: float | None = omitted_when(None, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not unresolved(self):
            require(self, "z_loss_weight", self.z_loss_weight >= 0, "at least 0")
            require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "from 0 to below 1")
            alpha = self.neftune_noise_alpha
            require(self, "neftune_noise_alpha", alpha is None or alpha > 0, "above 0 (5 is usual), or None")
