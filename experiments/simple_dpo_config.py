"""`SimpleDPOConfig` under Marin's module name."""

from marin_sft.recipes.simple_configs import SimpleDPOConfig

__all__ = ["SimpleDPOConfig"]
