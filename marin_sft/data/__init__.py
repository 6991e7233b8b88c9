"""Raw rows -> messages -> token cache -> mixture -> packed batches.

    formats     which keys of a row hold the dialogue, and which tokens of it are trained
    download    the steps: a repository of the Hub, or URLs -> files (hub, urls, transfer)
    sources     a dataset on the Hub, its subset and split, as a value
    splits      which rows of a downloaded dataset make up a subset and a split
    rows        rows from files of any kind (text_rows, table_rows), and back
    shapes      the shapes that rows come in: the keys that tell them, and who reads them
    messages    one row -> what it holds (examples.py), or a BadRow that says why not
    adapters    how one dataset's rows are read, named by its registry entry
    transform   the step: raw rows -> canonical rows (canonical.py)
    blocks      rows of many files cut into tasks; dropped: the rows that a step leaves out
    tokenizer   loading a tokenizer; training a small one
    chat        a dialogue -> token ids and the mask of trained tokens
    token_cache documents of tokens on disk
    tokenize    the step: rows -> token cache
    data_configs which tokenized datasets are trained on, in which proportion
    over_length what becomes of documents longer than a row
    selection   which documents of a component are trained, which validated
    packing     documents -> rows of a fixed length
    mixture     the step: token caches -> packed rows and weights
    pair_limits what is kept of the prompt and the completions of a preference pair; pair_mixture: that step for pairs
    interleaving which component comes when
    order       which packed row comes when; training_steps: which of them each training step takes
    batches     packed rows -> arrays to train on
    pair_batches pairs -> arrays to train on (pair_table, row_sizes)
    prefetch    the next batches made in the background

Importing this package, `tokenize`, `mixture` or `tokenizer` loads no numpy, transformers or jax: planning stays light.
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
from marin_sft.data.download import DownloadConfig, DownloadUrlsConfig
from marin_sft.data.formats import (
    ChatLmDatasetFormat,
    LmDatasetFormat,
    PrebuiltLmDatasetFormat,
    PreferenceChatLmDatasetFormat,
    SupervisedLmDatasetFormat,
    TextLmDatasetFormat,
)
from marin_sft.data.mixture import MixtureConfig
from marin_sft.data.sources import HfDataset
from marin_sft.data.tokenize import TokenizeConfig
from marin_sft.data.tokenizer import TrainTokenizerConfig

__all__ = [
    "ChatLmDatasetFormat",
    "DownloadConfig",
    "DownloadUrlsConfig",
    "HfDataset",
    "LmDataConfig",
    "LmDatasetFormat",
    "MixtureConfig",
    "PrebuiltLmDatasetFormat",
    "PreferenceChatLmDatasetFormat",
    "SupervisedLmDatasetFormat",
    "TextLmDatasetFormat",
    "TokenizeConfig",
    "TrainTokenizerConfig",
    "add_validation_sets_to_mixture",
    "interpolate_mixture_weights",
    "lm_data_config",
    "lm_mixture_data_config",
    "lm_varying_mixture_data_config",
    "mixture_for_evaluation",
]
