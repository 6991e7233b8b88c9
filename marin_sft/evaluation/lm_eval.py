"""The LM Evaluation Harness on an export, with its transformers backend.

{output_path}/results.json   from the harness: results, groups, versions and settings of the tasks
{output_path}/metrics.json   {"TASK/METRIC": value}; with a filter, "TASK/METRIC/FILTER"
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from marin_sft.data.chat.templates import PinnedClock
from marin_sft.data.files import write_text
from marin_sft.errors import ConfigError
from marin_sft.evaluation.step_configs import LmEvalConfig
from marin_sft.training.models.model_config import Fields
from marin_sft.training.models.model_directory import ModelDirectory

# The rest of what the harness returns depends on the machine and the time.
KEPT = ("results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples")


def lm_eval(config: LmEvalConfig) -> None:
    """Run the tasks of `config`. Tasks fetch their data from the Hugging Face Hub, unless their files say otherwise.

    Raises:
        ConfigError: the harness is not installed, or does not know a task.
        TrainingError: the model is not a model directory.
    """
    try:
        import torch
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
        from lm_eval.utils import handle_non_serializable
    except ImportError as error:
        raise ConfigError(
            f"the step needs the LM Evaluation Harness ({error}); install the extra: pip install 'marin_sft[eval]'"
        ) from error
    tasks = TaskManager(include_path=None if config.task_files is None else str(config.task_files))
    known = {*tasks.all_tasks, *tasks.all_groups, *tasks.all_tags}
    unknown = [task for task in config.tasks if task not in known]
    if unknown:
        raise ConfigError(f"tasks: the harness has no {unknown}; `lm_eval ls tasks` lists what it has")
    with ModelDirectory(config.model).whole() as local:
        found = simple_evaluate(
            model="hf",
            model_args={
                "pretrained": local,
                "dtype": config.dtype,
                "chat_template_args": template_arguments(config),
                "trust_remote_code": False,
            },
            tasks=list(config.tasks),
            num_fewshot=config.num_fewshot,
            limit=config.limit,
            batch_size=config.batch_size,
            device=config.device or ("cuda" if torch.cuda.is_available() else "cpu"),
            apply_chat_template=config.apply_chat_template,
            task_manager=tasks,
            log_samples=False,
            random_seed=config.seed,
            numpy_random_seed=config.seed,
            torch_random_seed=config.seed,
            fewshot_random_seed=config.seed,
        )
    kept = {key: found[key] for key in KEPT if key in found}
    text = json.dumps(kept, indent=2, sort_keys=True, default=handle_non_serializable)
    write_text(f"{config.output_path}/results.json", text + "\n")
    write_text(f"{config.output_path}/metrics.json", json.dumps(metrics(found["results"]), indent=2) + "\n")


def template_arguments(config: LmEvalConfig) -> dict[str, object]:
    """The arguments of the chat template, with a fixed date instead of the clock."""
    return {**config.chat_template_kwargs, "strftime_now": PinnedClock(config.template_date)}


def metrics(results: Mapping[str, Fields]) -> dict[str, float]:
    """{"TASK/METRIC": value} from the harness's {"TASK": {"METRIC,FILTER": value}}, with "/FILTER" unless "none"."""
    figures: dict[str, float] = {}
    for task, values in sorted(results.items()):
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if filtered and isinstance(value, int | float):
                figures["/".join([task, metric] + ([filtered] if filtered != "none" else []))] = value
    return figures
