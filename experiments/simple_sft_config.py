"""Marin's place for `SimpleSFTConfig`."""

from marin_sft.recipes.simple_configs import SimpleSFTConfig

__all__ = ["SimpleSFTConfig"]
