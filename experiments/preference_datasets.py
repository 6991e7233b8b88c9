"""`marin_sft.recipes.preference_datasets`, beside `instruction_datasets`."""

from marin_sft.recipes.preference_datasets import *  # noqa: F403
