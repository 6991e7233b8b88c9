"""Marin's place for `marin_sft.recipes.llama`."""

from marin_sft.recipes.llama import *  # noqa: F403
