"""Answers of an exported model to the prompts of a chat data set, and how many match the reference exactly.

{output_path}/generations.jsonl   {"set", "prompt", "reference", "generation", "exact_match", "finish"} per prompt
{output_path}/metrics.json        {"exact_match": fraction, "exact_match/SET": fraction of each set, "prompts": n,
                                   "stopped": fraction that ended by itself}
"""

from __future__ import annotations

from marin_sft.evaluation.generate_config import GenerateConfig
from marin_sft.execution.step import step_fn

__all__ = ["GenerateConfig", "generate"]


@step_fn(kind="generate", version=3, fresh_process=True)
def generate(config: GenerateConfig) -> None:
    """Answer each prompt until a token of generation_config.json's `eos_token_id` list.

    An answer also ends after `max_new_tokens`, or where the model's longest sequence ends ("finish": "length").

    Raises:
        DataError: no rows, a row without a reference answer, or a prompt that leaves no room for one token.
        TrainingError: for a model that is no model directory, or whose generation_config.json ends no answer.
    """
    from marin_sft.evaluation.generate_run import run

    run(config)
