"""Raw rows -> messages -> token cache -> mixture -> packed batches.

    step_configs  the configs of the steps, each naming its function
    download      the steps: a repository of the Hub, or URLs -> files (remote/); sources: a dataset as a value
    transform     the step: raw rows -> canonical rows; adapters: how one dataset's rows are read, by its registry name
    tokenizer     loading a tokenizer; train_tokenizer: the step that trains a small one
    tokenize      the step: rows -> documents on disk (token_cache), as the format says (formats, levanter_formats)
    data_configs  which tokenized datasets to train on, in what proportion
    mixture       the step: token caches -> packed rows and weights
    preview       shows how a row becomes tokens
    files         small files of a step's output

    remote/       files from elsewhere
    rows/         row_files: rows from files of any kind (text_rows, table_rows), and back; splits, blocks, dropped
    messages/     reading: a row -> what it holds (examples); shapes: the shapes of rows, and their readers
    chat/         encode: what a row holds -> tokens and their mask (renderer, templates, turn_spans, alignment)
    packing/      rows: what a mixture can hold (documents: packs, over_length; pairs: pair_limits); selection;
                  packed_mixture: the mixture on disk, read
    batches/      packed_batches, pair_batches: arrays to train on; order, interleaving: which row comes when

Importing this package or `step_configs` loads no numpy, transformers or jax: planning stays light.
"""

from marin_sft.data.data_configs import (
    LmDataConfig,
    add_validation_sets_to_mixture,
    interpolate_mixture_weights,
    lm_data_config,
    lm_mixture_data_config,
    lm_varying_mixture_data_config,
    mixture_for_evaluation,
)
from marin_sft.data.formats import (
    ChatLmDatasetFormat,
    LmDatasetFormat,
    PrebuiltLmDatasetFormat,
    PreferenceChatLmDatasetFormat,
    SupervisedLmDatasetFormat,
    TextLmDatasetFormat,
)
from marin_sft.data.sources import HfDataset
from marin_sft.data.step_configs import (
    DownloadConfig,
    DownloadUrlsConfig,
    LintConfig,
    MixtureConfig,
    RowSource,
    TokenizeConfig,
    TrainTokenizerConfig,
    TransformConfig,
)

__all__ = [
    "ChatLmDatasetFormat",
    "DownloadConfig",
    "DownloadUrlsConfig",
    "HfDataset",
    "LintConfig",
    "LmDataConfig",
    "LmDatasetFormat",
    "MixtureConfig",
    "PrebuiltLmDatasetFormat",
    "PreferenceChatLmDatasetFormat",
    "RowSource",
    "SupervisedLmDatasetFormat",
    "TextLmDatasetFormat",
    "TokenizeConfig",
    "TrainTokenizerConfig",
    "TransformConfig",
    "add_validation_sets_to_mixture",
    "interpolate_mixture_weights",
    "lm_data_config",
    "lm_mixture_data_config",
    "lm_varying_mixture_data_config",
    "mixture_for_evaluation",
]
