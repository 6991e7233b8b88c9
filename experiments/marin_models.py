"""Marin's place for the tokenizer of its models."""

from marin_sft.recipes.llama import marin_tokenizer

__all__ = ["marin_tokenizer"]
