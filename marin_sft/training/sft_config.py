"""The config of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.training.checks import require, unresolved
from marin_sft.training.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class SFTConfig(TrainConfig):
    """As `TrainConfig`; an example is a packed row.

    z_loss_weight: of the square of each trained token's log normaliser, added to its NLL (PaLM, arXiv 2204.02311).

    Raises:
        ConfigError: for a value that cannot be used.
    """

    z_loss_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not unresolved(self):
            require(self, "z_loss_weight", self.z_loss_weight >= 0, "at least 0")
