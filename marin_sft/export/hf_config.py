"""The configs of exports: what a directory needs beside the trained weights to serve them as they were trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from marin_sft.execution.step import StepConfig, execution_only, this_output_path
from marin_sft.export.card_config import CardConfig
from marin_sft.training.checks import check_types, require, unresolved

DTYPES = ("float32", "bfloat16", "float16")
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # as `precision` of training has them


@dataclass(frozen=True, kw_only=True)
class HfExport:
    """`base_model`: the directory that training started from.

    tokenizer: directory of the tokenizer trained with; None: the base model's.
    chat_template: the template trained with, where it is not the tokenizer's own. chat_template_kwargs: what it was
    given beside the messages; these become its defaults.
    dtype: of the weights written; None: the base model's. max_shard_bytes: the size of a file of weights.
    generation_eos_token_ids: the ids that end an answer; None: those of the base model's generation_config.json, the
    tokenizer's EOS and the token with which the chat template ends an assistant's turn.
    card: what the model card says; no part of the identity, as the steps that it tells of count by themselves.
    """

    base_model: str
    tokenizer: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    max_shard_bytes: int = 5 * 10**9
    generation_eos_token_ids: tuple[int, ...] | None = None
    card: CardConfig = execution_only(default=CardConfig())

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        check_types(self)
        meant = f"; {self.dtype} is {_SHORT[self.dtype]!r}" if self.dtype in _SHORT else ""
        require(self, "dtype", self.dtype in (None, *DTYPES), f"one of {', '.join(DTYPES)}, or None{meant}")
        require(self, "max_shard_bytes", self.max_shard_bytes >= 1, "at least 1")
        require(self, "generation_eos_token_ids", self.generation_eos_token_ids != (), "at least one id, or None")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(
    HfExport, StepConfig, kind="export_hf", version=4, body="marin_sft.export.hf:export_hf", fresh_process=True
):
    """`checkpoint`: output of a training step."""

    checkpoint: str
    output_path: str = this_output_path()
