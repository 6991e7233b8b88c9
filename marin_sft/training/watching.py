"""From a `TrainConfig` to how the loop reports, evaluates and stops."""

from __future__ import annotations

import dataclasses
from typing import Any

from marin_sft.errors import TrainingError
from marin_sft.training import checkpoints
from marin_sft.training.metrics.reporting import Reporting
from marin_sft.training.objective import Evaluate, Objective
from marin_sft.training.stops import parse_duration
from marin_sft.training.train_config import TrainConfig

_PLAIN = str | int | float | bool | None


def watching(config: TrainConfig) -> dict[str, Any]:
    """Arguments of `Loop`."""
    limit, every = config.training_time_limit, config.weight_distribution_log_steps
    kept = config.save_total_limit
    return {
        "reporting": _reporting(config),
        "early_stopping": config.early_stopping,
        "time_limit": None if limit is None else parse_duration(limit),
        "checkpoints_kept": checkpoints.KEPT if kept is None else kept or None,
        "exports_kept": config.hf_exports_kept,
        "weights": None if every is None else (every, config.weight_distribution_pattern),
    }


def evaluation_of(config: TrainConfig, objective: Objective, trainer: Any) -> Evaluate | None:
    """Raises TrainingError where the config asks for an evaluation and nothing is held out for it."""
    evaluate = objective.evaluation(trainer)
    if evaluate is None and (config.do_eval or config.early_stopping):
        asked = "do_eval = True" if config.do_eval else "early_stopping"
        raise TrainingError(
            f"{asked}: the mixture holds nothing out to evaluate on; give lm_mixture_data_config(..., "
            "validation_fraction=0.01), or validation data when tokenizing"
        )
    return evaluate


def _reporting(config: TrainConfig) -> Reporting:
    fields = ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
    memory = config.track_memory
    return Reporting(
        trackers=config.trackers,
        name=run_name(config.output_path),
        config={name: value for name, value in fields if isinstance(value, _PLAIN)},
        progress_bar=config.progress_bar,
        memory_seconds=None if memory is False else float(memory) if memory is not True else 0.0,
    )


def run_name(output_path: str) -> str:
    """`chat_seed0` of {prefix}/checkpoints/chat_seed0-0123456789/1, the directory of an attempt; else its last part."""
    *_, step, attempt = ["", *output_path.rstrip("/").split("/")]
    name, _, fingerprint = step.rpartition("-")
    return name if attempt.isdigit() and name and fingerprint.isalnum() else attempt
