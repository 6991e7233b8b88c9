"""Export: trained weights as a Hugging Face directory that transformers serves the way it was trained."""

from __future__ import annotations

from marin_sft.data.files import read_json
from marin_sft.export.directory import write_export
from marin_sft.export.hf_config import ExportConfig, HfExport
from marin_sft.training.models.model_directory import ModelDirectory


def export_hf(config: ExportConfig) -> None:
    """Write the directory described in `marin_sft.export.directory`, then read it back and compare.

    Raises:
        ExportError: what was written is not what was trained, the tokenizer does not fit the model, or nothing would
            end an answer.
        TrainingError: the checkpoint or the base model is not a model directory.
    """
    export_model(config, config.checkpoint, config.output_path)


def export_model(export: HfExport, checkpoint: str, output_path: str) -> None:
    """As `export_hf`, of the output of any training."""
    try:
        metrics = read_json(f"{checkpoint}/metrics.json")
    except FileNotFoundError:
        metrics = {}
    trained = ModelDirectory(f"{checkpoint}/model")
    base = ModelDirectory(export.base_model)
    write_export(output_path, trained.tensors(), trained.config, export, base, metrics)
