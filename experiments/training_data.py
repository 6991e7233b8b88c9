"""For `experiments.defaults`: see `marin_sft.recipes.training_data`."""

from marin_sft.recipes.training_data import *  # noqa: F403
