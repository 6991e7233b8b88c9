"""The tokenizer of Marin's models under Marin's module name."""

from marin_sft.recipes.llama import marin_tokenizer

__all__ = ["marin_tokenizer"]
