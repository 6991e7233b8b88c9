"""For `experiments.defaults`: see `marin_sft.recipes.sources`."""

from marin_sft.recipes.sources import *  # noqa: F403
