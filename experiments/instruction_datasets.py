"""Marin's place for `marin_sft.recipes.instruction_datasets`."""

from marin_sft.recipes.instruction_datasets import *  # noqa: F403
