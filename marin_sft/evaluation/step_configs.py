"""The configs of the evaluation steps: light values that name the functions that do the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from marin_sft.data.formats import TEMPLATE_DATE, check_template_date, check_template_kwargs
from marin_sft.execution.step import (
    SizesOfInputs,
    StepConfig,
    execution_only,
    omitted_when,
    this_output_path,
    total,
)
from marin_sft.inputs import Source
from marin_sft.training.checks import require, unresolved

PRECISIONS = ("fp32", "bf16")
ENGINES = ("vllm", "llama.cpp", "transformers")


@dataclass(frozen=True, kw_only=True)
class PerplexityConfig(
    StepConfig,
    kind="perplexity",
    version=1,
    body="marin_sft.evaluation.perplexity:perplexity",
    fresh_process=True,
    torch=False,
):
    """How well a model predicts the validation rows of a mixture."""

    model: str
    """A Hugging Face directory."""

    mixture: str
    """Output of a mixture step with validation rows."""

    tokenized: dict[str, str]
    """Outputs of tokenize steps, by the mixture's component names."""

    precision: str = "fp32"
    """The type of weights and matrix products, "fp32" or "bf16". NLLs are float32."""

    output_path: str = this_output_path()

    batch_size: int = execution_only(default=8)
    """Rows per batch, over all devices."""

    @property
    def figures(self) -> tuple[str, ...]:
        """What its metrics.json may have."""
        names = ("loss", "perplexity", "trained_tokens")
        return (*names, *(f"{name}/{component}" for name in names for component in self.tokenized))

    @classmethod
    def size(cls, config: Mapping[str, Any], inputs: SizesOfInputs) -> float:
        """Tokens of the mixture, times the bytes of the model."""
        return total(inputs, "mixture", of="tokens") * (total(inputs, "model") or 1.0)

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        require(self, "precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        require(self, "batch_size", self.batch_size >= 1, "at least 1")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(
    StepConfig,
    kind="generate",
    version=4,
    body="marin_sft.evaluation.generate:generate",
    fresh_process=True,
    torch=False,
):
    """A model's answers to prompts, compared with reference answers."""

    model: str
    """An exported directory."""

    prompts: dict[str, str]
    """By set name, a path or glob of .json/.jsonl(.gz) rows whose "messages" end with the assistant's reference
    answer."""

    max_new_tokens: int = 128
    """The most tokens of an answer."""

    max_prompts: int | None = None
    """Only the first rows of each set. None: all."""

    temperature: float = 0.0
    """0 is greedy."""

    top_p: float = 1.0
    """Draw from the fewest most likely tokens that together have at least this probability."""

    seed: int = 0
    """Seed of sampling."""

    chat_template_kwargs: dict[str, object] = omitted_when({}, default_factory=dict)
    """Arguments of the chat template, e.g. {"enable_thinking": False}. A row's own take precedence."""

    template_date: str = omitted_when(TEMPLATE_DATE, default=TEMPLATE_DATE)
    """The date for templates that ask for it, see `ChatLmDatasetFormat`."""

    output_path: str = this_output_path()

    batch_size: int = execution_only(default=16)
    """Prompts per batch."""

    @property
    def figures(self) -> tuple[str, ...]:
        """What its metrics.json may have."""
        return ("exact_match", "prompts", "stopped", *(f"exact_match/{name}" for name in self.prompts))

    @classmethod
    def size(cls, config: Mapping[str, Any], inputs: SizesOfInputs) -> float:
        """Bytes of the prompts, times those of the model, times the most tokens of an answer."""
        tokens = float(config.get("max_new_tokens") or 1)
        return (total(inputs, "prompts") or 1.0) * (total(inputs, "model") or 1.0) * tokens

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
    StepConfig,
    kind="lm_eval",
    version=2,
    body="marin_sft.evaluation.lm_eval:lm_eval",
    fresh_process=True,
    one_host=True,
):
    """Tasks of the LM Evaluation Harness on an export."""

    model: str
    """An exported directory."""

    tasks: tuple[str, ...]
    """Names of the harness's tasks or groups."""

    task_files: Source | None = None
    """A directory with your own task files (.yaml)."""

    num_fewshot: int | None = None
    """Examples in the prompt. None: the task's default."""

    limit: float | None = None
    """Only the first documents of each task; below 1, a fraction of them. None: all."""

    apply_chat_template: bool = True
    """Render prompts with the chat template."""

    dtype: str = "auto"
    """The type of the weights. "auto": the export's."""

    seed: int = 0
    """Seed of few-shot examples and of sampling."""

    chat_template_kwargs: dict[str, object] = omitted_when({}, default_factory=dict)
    """Arguments of the chat template, e.g. {"enable_thinking": False}."""

    template_date: str = omitted_when(TEMPLATE_DATE, default=TEMPLATE_DATE)
    """The date for templates that ask for it."""

    output_path: str = this_output_path()

    batch_size: int = execution_only(default=8)
    """Requests per batch."""

    device: str | None = execution_only(default=None)
    """"cuda" or "cpu". None: a GPU if there is one."""

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


@dataclass(frozen=True, kw_only=True)
class ExportTableConfig(
    StepConfig, kind="export_table", version=1, body="marin_sft.evaluation.export_table:export_table"
):
    """The figures of all exports of a training, by training step."""

    TABLE = "table.txt"

    evaluations: dict[str, dict[str, str]]
    """Outputs with a metrics.json, by training step and name of the evaluation."""

    output_path: str = this_output_path()


@dataclass(frozen=True, kw_only=True)
class BestExportConfig(
    StepConfig, kind="best_export", version=1, body="marin_sft.evaluation.export_table:best_export", one_host=True
):
    """The export of a training that is best by one figure, as a Hugging Face directory."""

    table: str
    """Output of a table of exports."""

    trained: str
    """Output of the training."""

    metric: str
    """A column of the table, such as "answers/exact_match"."""

    direction: str
    """"max" or "min"."""

    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        if not unresolved(self):
            require(self, "direction", self.direction in ("max", "min"), "'max' or 'min'")


@dataclass(frozen=True, kw_only=True)
class ServedConfig(
    StepConfig,
    kind="served",
    version=1,
    body="marin_sft.evaluation.served.served:served",
    fresh_process=True,
    one_host=True,
):
    """An export in a server that people use, compared with our own generation from its weights."""

    model: str
    """An exported directory, or that of an adapter."""

    base: str | None = omitted_when(None, default=None)
    """For an adapter: its base model. None: what the adapter says."""

    engine: str = "vllm"
    """The server: "vllm", "llama.cpp" or "transformers"."""

    prompts: dict[str, str] = field(default_factory=dict)
    """By set name, a path or glob of rows with "messages" or "prompt", or a .txt file with a prompt on each line. An
    answer that a row ends with is left out. {}: a few general prompts."""

    max_prompts: int = 20
    """The first rows of the sets in turn, so many in all."""

    max_new_tokens: int = 64
    """The most tokens of an answer."""

    tokenizer: str | None = None
    """The directory of the tokenizer used in training. None: the export's own."""

    chat_template: str | None = None
    """The chat template used in training. None: the tokenizer's own."""

    chat_template_kwargs: dict[str, object] = field(default_factory=dict)
    """The template's arguments in training, which are defaults of the export's template."""

    dtype: str = "float32"
    """The type in which the server computes, such as "float32" or "bfloat16"; "auto": that of the weights. In shorter
    types than float32, answers differ from ours by rounding."""

    max_model_len: int | None = None
    """The longest sequence that the server is to take. None: the model's."""

    tie_gap: float = 1e-3
    """An answer may take another token where ours has at most so much more log-probability: rounding decides there."""

    logprob_tolerance: float = 0.01
    """How far the log-probability of a token may be from ours. Shorter types than float32 need more."""

    output_path: str = this_output_path()

    on_difference: str = execution_only(default="fail")
    """"fail": the step fails, and names the first difference. "report": differences are counted."""

    python: str | None = execution_only(default=None)
    """The Python of the server's environment. None: see the guide."""

    start_seconds: float = execution_only(default=900.0)
    """How long the server may take to start."""

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        require(self, "engine", self.engine in ENGINES, f"one of {', '.join(ENGINES)}")
        require(self, "max_prompts", self.max_prompts >= 1, "at least 1")
        require(self, "max_new_tokens", self.max_new_tokens >= 1, "at least 1")
        require(self, "max_model_len", self.max_model_len is None or self.max_model_len >= 1, "at least 1, or None")
        require(self, "tie_gap", self.tie_gap >= 0, "at least 0")
        require(self, "logprob_tolerance", self.logprob_tolerance >= 0, "at least 0")
        require(self, "on_difference", self.on_difference in ("fail", "report"), "'fail' or 'report'")
        require(self, "start_seconds", self.start_seconds > 0, "above 0")
        check_template_kwargs("ServedConfig.chat_template_kwargs", self.chat_template_kwargs)
