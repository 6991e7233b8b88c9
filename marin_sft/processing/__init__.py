"""Marin's module paths for what `marin_sft.data` has."""
