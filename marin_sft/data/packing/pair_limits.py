"""What is kept of the prompt and the completions of a pair.

The prompt of a branch is all before its first target, the completion is the rest. In this order:

1. The prompt keeps its last `max_prompt_length` tokens.
2. The completion keeps its first `max_completion_length` tokens.
3. If a branch is still longer than `seq_len`, "truncate" cuts the end of the completion, "drop" leaves out the pair,
   and "raise" raises an error.

The prompt is never cut to make room for the completion, so both branches continue the same prompt. A pair is left out
if a branch keeps no target, or if the same tokens are kept of both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.data_configs import OverLength
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.token_cache import trained_tokens
from marin_sft.errors import ConfigError

BRANCHES = ("chosen", "rejected")


@dataclass(frozen=True)
class Kept:
    """What is kept of a branch: `length` tokens from `start` on, the first `prompt` its prompt, `trained` targets."""

    start: int
    prompt: int
    length: int
    trained: int
    prompt_is_cut: bool
    completion_is_cut: bool

    def of(self, row: TokenRow) -> TokenRow:
        end = self.start + self.length
        return TokenRow(row.input_ids[self.start : end], row.mask[self.start : end])


@dataclass(frozen=True)
class PairLimits:
    """The most tokens of a branch (`seq_len`), of its prompt and of its completion.

    Raises:
        ConfigError: `over_length` is "split".
    """

    seq_len: int
    over_length: OverLength = "truncate"
    max_prompt_length: int | None = None
    max_completion_length: int | None = None

    def __post_init__(self) -> None:
        if self.over_length == "split":
            raise ConfigError(
                "over_length='split' with preference data: a piece of an answer is neither better nor worse; "
                "expected 'truncate', 'drop' or 'raise'"
            )

    def keep(self, chosen: TokenRow, rejected: TokenRow) -> tuple[Kept, Kept]:
        """What is kept of both branches.

        Raises:
            BadRow: `over_length`, with "drop" and "raise"; `no_trained_token`; `identical_pair`.
        """
        first, second = (self._keep(name, row) for name, row in zip(BRANCHES, (chosen, rejected), strict=True))
        if np.array_equal(first.of(chosen).input_ids, second.of(rejected).input_ids):
            raise BadRow("identical_pair", f"the {first.length} tokens kept of chosen and rejected are the same")
        return first, second

    def _keep(self, branch: str, row: TokenRow) -> Kept:
        whole_prompt = prompt_length(row.mask)
        whole_completion = len(row.mask) - whole_prompt
        prompt = min(whole_prompt, self.max_prompt_length or whole_prompt)
        completion = min(whole_completion, self.max_completion_length or whole_completion)
        if prompt + completion > self.seq_len and self.over_length != "truncate":
            raise BadRow(
                "over_length",
                f"{branch}: {prompt} tokens of prompt and {completion} of completion, expected at most {self.seq_len} "
                f"together (over_length={self.over_length!r})",
            )
        start, length = whole_prompt - prompt, min(prompt + completion, self.seq_len)
        trained = trained_tokens(row.mask[start : start + length])
        if not trained:
            raise BadRow(
                "no_trained_token",
                f"{branch}: no target is left after a prompt of {prompt} tokens in a row of {self.seq_len}; raise "
                "seq_len, or set max_prompt_length",
            )
        return Kept(start, prompt, length, trained, prompt < whole_prompt, length - prompt < whole_completion)


def prompt_length(mask: np.ndarray) -> int:
    """Tokens before the first target of `mask`, uint8[tokens], which has at least one."""
    return int(mask.argmax())
