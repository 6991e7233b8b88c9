"""What all kinds of training can be told beside the usual: for `SimpleTrainConfig` and its like to inherit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marin_sft.training.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(RunConfig):
    """Under the names, and with the meaning, that they have in `TrainConfig`; those of `RunConfig` among them."""

    learning_rate_end: float | None = None
    optimizer: str = "adamw"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    epsilon: float | None = None
    weight_decay_parameters: str | None = None
    skip_bad_steps: int | None = None
    precision: str = "bf16"
    frozen_parameters: str | None = None
    unfreeze: Mapping[str, int] = field(default_factory=dict)
    reinit_tokens: Sequence[str] | bool | None = ()
    mesh: Any = None
    gradient_checkpointing: bool | str = True
    attention_backend: str | None = None
