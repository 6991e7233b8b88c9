"""The config of the step that adds tokens to a model. Light: no JAX."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from marin_sft.errors import ConfigError
from marin_sft.execution.step import StepConfig, this_output_path
from marin_sft.training.checks import check_types, require, unresolved

NEW_TOKENS = "new_tokens.json"
"""The file with the ids of the tokens that were added, by token."""


def check_new(model: object, known: Collection[str]) -> None:
    """Raise ConfigError unless the tokenizer of `model` has none of the tokens to add. known: those that it has."""
    if known:
        raise ConfigError(
            f"add_tokens: the tokenizer of {model} already has {sorted(known)}; expected new tokens. To start the "
            "embeddings of tokens that it has afresh, use reinit_tokens of the training"
        )


@dataclass(frozen=True, kw_only=True)
class AddTokensConfig(
    StepConfig,
    kind="add_tokens",
    version=1,
    body="marin_sft.training.models.new_tokens:add_tokens",
    fresh_process=True,
    torch=False,
    one_host=True,
):
    """A model and its tokenizer with more tokens."""

    model: str
    """A Hugging Face directory with a tokenizer."""

    tokens: tuple[str, ...] = ()
    """New tokens that are text, such as "<tool>": decoding with `skip_special_tokens` keeps them."""

    special_tokens: tuple[str, ...] = ()
    """New tokens that are markup, such as "<|im_end|>": decoding with `skip_special_tokens` leaves them out."""

    seed: int = 0
    """Seed of the new embeddings."""

    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        check_types(self)
        every = [*self.tokens, *self.special_tokens]
        require(self, "tokens", bool(every), "at least one token here or in special_tokens")
        twice = sorted({token for token in every if every.count(token) > 1})
        if twice or not all(token.strip() for token in every):
            raise ConfigError(
                f"AddTokensConfig: tokens = {self.tokens!r}, special_tokens = {self.special_tokens!r}: expected tokens "
                f"that are not blank, each once{f', got {twice[0]!r} twice' if twice else ''}"
            )
