"""Marin's place for `SimpleTrainConfig`."""

from experiments.simple_configs import SimpleTrainConfig

__all__ = ["SimpleTrainConfig"]
