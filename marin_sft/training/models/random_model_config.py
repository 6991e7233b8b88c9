"""The config of the step that makes a model with random weights. Light: no JAX."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.execution.step import StepConfig, this_output_path
from marin_sft.training.models import LlamaConfig


@dataclass(frozen=True, kw_only=True)
class RandomModelConfig(
    StepConfig,
    kind="random_model",
    version=1,
    body="marin_sft.training.models.random_model:random_model",
    fresh_process=True,
    torch=False,
    one_host=True,
):
    """A model with random weights."""

    model: LlamaConfig
    """The model's shape."""

    tokenizer: str
    """A tokenizer directory, copied to the model. Its length is the size of the vocabulary."""

    seed: int = 0
    """Seed of the weights."""

    output_path: str = this_output_path()
