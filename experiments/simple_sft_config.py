"""Marin's place for `SimpleSFTConfig`."""

from experiments.simple_configs import SimpleSFTConfig

__all__ = ["SimpleSFTConfig"]
