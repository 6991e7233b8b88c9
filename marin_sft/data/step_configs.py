"""The config of the mixture step."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.data.data_configs import LmDataConfig, is_count
from marin_sft.errors import ConfigError
from marin_sft.execution.step import UnversionedValue, omitted_when, this_output_path

PAIR_FIELDS = ("max_prompt_length", "max_completion_length")


@dataclass(frozen=True)
class MixtureConfig:
    """`data`: the components (outputs of `tokenize` steps), weights and policies. `seq_len`: tokens in a row.

    Of preference data, `seq_len` is the most that prompt and completion have together; `max_prompt_length` and
    `max_completion_length` the most that each has by itself, see `pair_limits`.
    """

    data: LmDataConfig
    seq_len: int
    output_path: str = this_output_path()
    max_prompt_length: int | None = omitted_when(None, default=None)
    max_completion_length: int | None = omitted_when(None, default=None)

    def __post_init__(self) -> None:
        if isinstance(self.seq_len, int) and self.seq_len < 2:
            raise ConfigError(f"seq_len={self.seq_len}; expected at least 2: a token and the one to predict from it")
        for name in PAIR_FIELDS:
            value = getattr(self, name)
            # Without a token of the prompt the first of the completion could not be predicted.
            if value is not None and not isinstance(value, UnversionedValue) and not is_count(value):
                raise ConfigError(f"{name}={value!r}; expected at least 1 token, or None for no limit")
