"""Marin's place for `marin_sft.recipes.qwen`."""

from marin_sft.recipes.qwen import *  # noqa: F403
