"""Marin's place for `SimpleDPOConfig`."""

from marin_sft.recipes.simple_configs import SimpleDPOConfig

__all__ = ["SimpleDPOConfig"]
