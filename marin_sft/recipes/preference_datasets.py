"""Preference datasets by their hub id, each with its commit and the columns that hold its pairs.

    ultrafeedback = get_preference_dataset("HuggingFaceH4/ultrafeedback_binarized", splits=["train_prefs"])

To add one, see `instruction_datasets.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from marin_sft.data import TransformConfig
from marin_sft.data.adapters import PreferenceTransformAdapter
from marin_sft.execution.step import ExecutorStep
from marin_sft.recipes.instruction_datasets import InstructionDatasetConfig, dataset_config, transform_dataset_step


@dataclass(frozen=True, kw_only=True)
class PreferenceDatasetConfig(InstructionDatasetConfig):
    """Like `InstructionDatasetConfig`, for rows of pairs."""


_DATASETS = (
    # Each dialogue is one text, with "\n\nHuman:" and "\n\nAssistant:" before its turns.
    PreferenceDatasetConfig(
        hf_dataset_id="Anthropic/hh-rlhf",
        revision="09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
        data_dir="helpful-base",
    ),
    PreferenceDatasetConfig(
        hf_dataset_id="HuggingFaceH4/ultrafeedback_binarized",
        revision="3949bf5",
        adapter=PreferenceTransformAdapter(),
        metadata_columns=("prompt", "score_chosen", "score_rejected"),
        splits=("train_prefs",),
    ),
    PreferenceDatasetConfig(
        hf_dataset_id="allenai/olmo-2-1124-7b-preference-mix",
        revision="316c96f",
        adapter=PreferenceTransformAdapter(),
        metadata_columns=("prompt", "chosen_rating", "rejected_rating"),
    ),
    PreferenceDatasetConfig(
        hf_dataset_id="mlabonne/orpo-dpo-mix-40k",
        revision="0f72511202b8f093e9be60e1683d84b046062e36",
        adapter=PreferenceTransformAdapter(),
        metadata_columns=("source", "question"),
    ),
)

PREFERENCE_DATASET_NAME_TO_CONFIG = {dataset.name or dataset.hf_dataset_id: dataset for dataset in _DATASETS}


def get_preference_dataset(
    hf_dataset_id: str, splits: Sequence[str] | None = None, **options: Any
) -> ExecutorStep[TransformConfig]:
    """`documents/{org--name}`: the pairs of a dataset as rows of prompt, chosen and rejected messages.

    `hf_dataset_id`: a registered name, or the hub id of another dataset with its `revision`. `options`: fields of
    `PreferenceDatasetConfig` that override the registered ones.

    Raises:
        ConfigError: an unknown dataset without a `revision`.
    """
    registry = PREFERENCE_DATASET_NAME_TO_CONFIG
    return transform_dataset_step(dataset_config(registry, PreferenceDatasetConfig, hf_dataset_id, splits, options))
