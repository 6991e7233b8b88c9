"""Supervised fine-tuning: a mixture of token caches and a base model -> trained weights.

{output_path}/model/            config.json and safetensors of the trained weights, float32: for `export`
{output_path}/hf/step-N/        exports for serving, where `hf_exports` asks for them
{output_path}/metrics.jsonl     one line per logged step
{output_path}/checkpoints/      state to resume from; removed once the model is written
"""

from __future__ import annotations

from marin_sft.execution.step import step_fn
from marin_sft.training.sft_config import SFTConfig

__all__ = ["SFTConfig", "sft"]


@step_fn(kind="sft", version=4, fresh_process=True)
def sft(config: SFTConfig) -> None:
    """Train, resuming from the newest checkpoint of `earlier_attempts` when there is one.

    Raises:
        TrainingError: a base model that is not what its config.json says, a batch that does not divide over the
            devices, a checkpoint that cannot be restored, or a loss that is no longer finite.
    """
    from marin_sft.training.sft_run import run

    run(config)
