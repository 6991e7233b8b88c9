"""The config of an export."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.execution.step import this_output_path
from marin_sft.training.checks import require, unresolved

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """`checkpoint`: output of a training step. `base_model`: the directory it started from.

    `tokenizer`: directory of the tokenizer trained with; None: the base model's. `chat_template`: the template trained
    with, where it is not the tokenizer's own. `dtype`: of the weights written; None: the base model's.
    """

    checkpoint: str
    base_model: str
    tokenizer: str | None = None
    chat_template: str | None = None
    dtype: str | None = None
    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        if not unresolved(self):
            require(self, "dtype", self.dtype in (None, *DTYPES), f"one of {', '.join(DTYPES)}, or None")
