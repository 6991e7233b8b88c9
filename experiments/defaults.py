"""Marin's place for the usual steps: see `marin_sft.recipes.defaults`."""

from marin_sft.recipes.defaults import *  # noqa: F403
