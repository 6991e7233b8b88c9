"""Raw rows -> messages -> token cache -> mixture -> packed batches.

    formats     which keys of a row hold the dialogue, and which tokens of it are trained
    rows        JSON rows from files, and back
    messages    one row -> one dialogue, or a BadRow that says why not
    tokenizer   loading a tokenizer; training a small one
    chat        a dialogue -> token ids and the mask of trained tokens
    token_cache documents of tokens on disk
    tokenize    the step: rows -> token cache
    packing     documents -> rows of a fixed length
    mixture     the step: token caches -> packed rows and weights
    order       which packed row comes when
    batches     packed rows -> arrays to train on

Importing this package, `tokenize`, `mixture` or `tokenizer` loads no numpy, transformers or jax: planning stays light.
"""

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.mixture import MixtureConfig
from marin_sft.data.tokenize import TokenizeConfig
from marin_sft.data.tokenizer import TrainTokenizerConfig

__all__ = ["ChatLmDatasetFormat", "MixtureConfig", "TokenizeConfig", "TrainTokenizerConfig"]
