"""`marin_sft.recipes.llama` under Marin's module name."""

from marin_sft.recipes.llama import *  # noqa: F403
