"""The configs of the evaluation steps: light values, each of which names the function that does the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marin_sft.data.formats import TEMPLATE_DATE, check_template_date, check_template_kwargs
from marin_sft.execution.step import StepConfig, execution_only, omitted_when, this_output_path
from marin_sft.training.checks import require, unresolved

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class PerplexityConfig(
    StepConfig, kind="perplexity", version=1, body="marin_sft.evaluation.perplexity:perplexity", fresh_process=True
):
    """`model`: a Hugging Face directory. `mixture`: output of a mixture step, whose validation rows are measured.
    `tokenized`: outputs of the tokenize steps by the mixture's component names. `precision`: of weights and matrix
    products, "fp32" or "bf16"; NLLs are float32. `batch_size`: rows at a time over all devices."""

    model: str
    mixture: str
    tokenized: dict[str, str]
    precision: str = "fp32"
    output_path: str = this_output_path()
    batch_size: int = execution_only(default=8)

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        require(self, "precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        require(self, "batch_size", self.batch_size >= 1, "at least 1")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(
    StepConfig, kind="generate", version=3, body="marin_sft.evaluation.generate:generate", fresh_process=True
):
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


@dataclass(frozen=True, kw_only=True)
class LmEvalConfig(
    StepConfig, kind="lm_eval", version=2, body="marin_sft.evaluation.lm_eval:lm_eval", fresh_process=True
):
    """`model`: an exported directory. `tasks`: names of the harness's tasks or groups.

    task_files: a directory of task files (.yaml) of your own. num_fewshot: examples in the prompt; None: as each task
    says. limit: the first so many documents of each task; below 1, that fraction of them; None: all.
    chat_template_kwargs: arguments of the chat template, e.g. {"enable_thinking": False}. template_date: the day that a
    template is told which asks for it. dtype: "auto" is the export's. seed: of few-shot examples and of sampling.
    device: "cuda", "cpu"; None: a GPU where there is one.
    """

    model: str
    tasks: tuple[str, ...]
    task_files: Any = None
    num_fewshot: int | None = None
    limit: float | None = None
    apply_chat_template: bool = True
    dtype: str = "auto"
    seed: int = 0
    chat_template_kwargs: dict[str, Any] = omitted_when({}, default_factory=dict)
    template_date: str = omitted_when(TEMPLATE_DATE, default=TEMPLATE_DATE)
    output_path: str = this_output_path()
    batch_size: int = execution_only(default=8)
    device: str | None = execution_only(default=None)

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        require(self, "tasks", bool(self.tasks) and not isinstance(self.tasks, str), "a list of task names")
        require(self, "num_fewshot", self.num_fewshot is None or self.num_fewshot >= 0, "at least 0, or None")
        require(self, "limit", self.limit is None or self.limit > 0, "above 0, or None")
        check_template_kwargs("LmEvalConfig.chat_template_kwargs", self.chat_template_kwargs)
        check_template_date("LmEvalConfig.template_date", self.template_date)
        require(
            self,
            "chat_template_kwargs",
            self.apply_chat_template or not self.chat_template_kwargs,
            "{} where apply_chat_template is False",
        )
        require(self, "batch_size", self.batch_size >= 1, "at least 1")
