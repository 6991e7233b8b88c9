"""The config of generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marin_sft.data.formats import TEMPLATE_DATE, check_template_date, check_template_kwargs
from marin_sft.execution.step import execution_only, omitted_when, this_output_path
from marin_sft.training.checks import require, unresolved


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """`model`: an exported directory. `prompts`: by set name, a path or glob of .json/.jsonl(.gz) rows whose "messages"
    end with the reference answer of the assistant. `max_prompts`: the first so many rows of each set; None: all.

    chat_template_kwargs: arguments of the chat template, e.g. {"enable_thinking": False}; a row's own go before them.
    template_date: the day that a template is told which asks for it; see `ChatLmDatasetFormat`.
    temperature: 0 is greedy. top_p: draw from the fewest tokens that have this probability together. seed: of what is
    drawn."""

    model: str
    prompts: dict[str, str]
    max_new_tokens: int = 128
    max_prompts: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    chat_template_kwargs: dict[str, Any] = omitted_when({}, default_factory=dict)
    template_date: str = omitted_when(TEMPLATE_DATE, default=TEMPLATE_DATE)
    output_path: str = this_output_path()
    batch_size: int = execution_only(default=16)

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        require(self, "max_new_tokens", self.max_new_tokens >= 1, "at least 1")
        require(self, "max_prompts", self.max_prompts is None or self.max_prompts >= 1, "at least 1, or None")
        require(self, "temperature", self.temperature >= 0, "at least 0")
        require(self, "top_p", 0 < self.top_p <= 1, "a probability above 0")
        check_template_kwargs("GenerateConfig.chat_template_kwargs", self.chat_template_kwargs)
        check_template_date("GenerateConfig.template_date", self.template_date)
        require(self, "batch_size", self.batch_size >= 1, "at least 1")
