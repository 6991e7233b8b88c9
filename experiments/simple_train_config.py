"""`SimpleTrainConfig` under Marin's module name."""

from marin_sft.recipes.simple_configs import SimpleTrainConfig

__all__ = ["SimpleTrainConfig"]
