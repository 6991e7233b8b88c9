"""Direct preference optimisation: a mixture of preference pairs and a base model -> trained weights.

Writes what `marin_sft.training.sft` writes.
"""

from __future__ import annotations

from marin_sft.execution.step import step_fn
from marin_sft.training.dpo_config import DPOConfig

__all__ = ["DPOConfig", "dpo"]


@step_fn(kind="dpo", version=3, fresh_process=True)
def dpo(config: DPOConfig) -> None:
    """Train, resuming from the newest checkpoint of `earlier_attempts` when there is one.

    Raises:
        TrainingError: as `sft`; and figures of a first step that differ from the reference's, where the reference is
            the model that training begins with.
        DataError: a mixture that is not of pairs, or other pairs than the reference's.
    """
    from marin_sft.training.dpo_run import run

    run(config)
