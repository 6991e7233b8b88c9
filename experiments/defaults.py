"""The usual steps under Marin's module name: see `marin_sft.recipes.defaults`."""

from marin_sft.recipes.defaults import *  # noqa: F403
