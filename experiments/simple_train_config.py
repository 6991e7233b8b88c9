"""Marin's place for `SimpleTrainConfig`."""

from marin_sft.recipes.simple_configs import SimpleTrainConfig

__all__ = ["SimpleTrainConfig"]
