"""`levanter.data.text` with only the package's name changed: what is in a row, and which data sets are trained on."""

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
