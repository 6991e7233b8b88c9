"""`marin_sft.recipes.preference_datasets`, next to `instruction_datasets`."""

from marin_sft.recipes.preference_datasets import *  # noqa: F403
