"""`marin_sft.recipes.qwen` under Marin's module name."""

from marin_sft.recipes.qwen import *  # noqa: F403
