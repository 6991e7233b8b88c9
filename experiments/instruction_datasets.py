"""`marin_sft.recipes.instruction_datasets` under Marin's module name."""

from marin_sft.recipes.instruction_datasets import *  # noqa: F403
