"""`SimpleSFTConfig` under Marin's module name."""

from marin_sft.recipes.simple_configs import SimpleSFTConfig

__all__ = ["SimpleSFTConfig"]
