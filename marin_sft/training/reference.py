"""Log-probabilities of preference pairs under a fixed model, once for all trainings that compare with it.

{output_path}/{component}/{split}/logps.npy    float32[pairs, 4] for the pairs of the mixture's component, in its order:
                                               chosen, rejected, and of each what lies beyond the shorter one's length
"""

from __future__ import annotations

from marin_sft.execution.step import step_fn
from marin_sft.training.dpo_config import ReferenceConfig

__all__ = ["ReferenceConfig", "reference_logprobs"]


@step_fn(kind="reference_logprobs", version=2, fresh_process=True)
def reference_logprobs(config: ReferenceConfig) -> None:
    """Write the summed log-probabilities of every completion, in nats.

    Raises:
        TrainingError: a model that is not what its config.json says, or too small for the pairs' tokens.
        DataError: a mixture that is not of pairs.
    """
    from marin_sft.training.reference_run import run

    run(config)
