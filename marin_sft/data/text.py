"""The names of `levanter.data.text`: formats of rows, and mixtures of datasets."""

from marin_sft.data.data_configs import LmDataConfig
from marin_sft.data.formats import (
    ChatLmDatasetFormat,
    LmDatasetFormat,
    PrebuiltLmDatasetFormat,
    PreferenceChatLmDatasetFormat,
    SupervisedLmDatasetFormat,
    TextLmDatasetFormat,
)

LmDatasetFormatBase = LmDatasetFormat
LMMixtureDatasetConfig = LmDataConfig

__all__ = [
    "ChatLmDatasetFormat",
    "LMMixtureDatasetConfig",
    "LmDataConfig",
    "LmDatasetFormat",
    "LmDatasetFormatBase",
    "PrebuiltLmDatasetFormat",
    "PreferenceChatLmDatasetFormat",
    "SupervisedLmDatasetFormat",
    "TextLmDatasetFormat",
]
