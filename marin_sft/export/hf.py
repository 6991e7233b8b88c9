"""Export: trained weights as a Hugging Face directory that transformers serves the way it was trained."""

from __future__ import annotations

from marin_sft.execution.step import step_fn
from marin_sft.export.hf_config import ExportConfig

__all__ = ["ExportConfig", "export_hf"]


@step_fn(kind="export_hf", version=1, fresh_process=True)
def export_hf(config: ExportConfig) -> None:
    """Write config.json, safetensors, generation_config.json and the tokenizer with its chat template, then read
    them back and compare.

    Raises:
        ExportError: when what was written is not what was trained, or the tokenizer does not fit the model.
        TrainingError: for a checkpoint or base model that is no model directory.
    """
    from marin_sft.export.hf_run import run

    run(config)
