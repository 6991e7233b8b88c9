"""Marin's place for `SimpleDPOConfig`."""

from experiments.simple_configs import SimpleDPOConfig

__all__ = ["SimpleDPOConfig"]
