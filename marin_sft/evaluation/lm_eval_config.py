"""The config of an evaluation with the LM Evaluation Harness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marin_sft.data.formats import TEMPLATE_DATE, check_template_date, check_template_kwargs
from marin_sft.execution.step import execution_only, omitted_when, this_output_path
from marin_sft.training.checks import require, unresolved


@dataclass(frozen=True, kw_only=True)
class LmEvalConfig:
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
