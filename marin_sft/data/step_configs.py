"""The configs of the steps that make data: light values, each of which names the function that does the work."""

from __future__ import annotations

from dataclasses import dataclass, field

from marin_sft.data.adapters import Adapter, FormatAdapter
from marin_sft.data.data_configs import LmDataConfig, is_count
from marin_sft.data.formats import ChatLmDatasetFormat, LmDatasetFormat
from marin_sft.errors import ConfigError
from marin_sft.execution.step import (
    StepConfig,
    UnversionedValue,
    earlier_attempts,
    execution_only,
    omitted_when,
    this_output_path,
)
from marin_sft.redaction import without_signature

_KINDS = ("dataset", "model")
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*",
    "config.json",  # says which class the tokenizer has, where tokenizer_config.json does not
    "merges.txt",
    "sentencepiece*.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer*",
    "vocab*",
)
"""What of a model's repository makes up its tokenizer."""
_BYTES = 256
PAIR_FIELDS = ("max_prompt_length", "max_completion_length")


@dataclass(frozen=True)
class DownloadConfig(StepConfig, kind="download", version=1, body="marin_sft.data.download:download"):
    """Files of a repository on the Hugging Face Hub.

    id: `org/name`. kind: "dataset" or "model".
    revision: a commit sha, tag or branch. Only a commit sha stands for the same files for ever.
    allow_patterns, ignore_patterns: globs over paths in the repository; none allowed means all. A `*` crosses `/`.
    The hub's URL and the token come from the environment: HF_ENDPOINT, HF_TOKEN.
    """

    id: str
    kind: str = "dataset"
    revision: str = "main"
    allow_patterns: tuple[str, ...] = ()
    ignore_patterns: tuple[str, ...] = ()
    earlier_attempts: tuple[str, ...] = earlier_attempts()
    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ConfigError(f"kind={self.kind!r}; expected one of {', '.join(map(repr, _KINDS))}")
        _refuse_strings(self, "patterns", "allow_patterns", "ignore_patterns")


class SignedUrl:
    """A URL with what lets somebody in: a signature, a password. `str` of it, which is all that is kept, is without."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __repr__(self) -> str:
        return without_signature(self.url)


@dataclass(frozen=True)
class DownloadUrlsConfig(StepConfig, kind="download_urls", version=1, body="marin_sft.data.download:download_urls"):
    """Files from https://, gs://, s3:// and other fsspec URLs, kept under the last part of their path.

    sha256: of the contents, in hex, by URL; URLs may be left out.
    signed: made of `urls`, which themselves lose their signatures: these change from day to day, and the files do not.
    """

    urls: tuple[str, ...]
    sha256: dict[str, str] = field(default_factory=dict)
    signed: tuple[SignedUrl, ...] = execution_only(default=())
    earlier_attempts: tuple[str, ...] = earlier_attempts()
    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        _refuse_strings(self, "URLs", "urls")
        urls = tuple(map(without_signature, self.urls))
        new = (SignedUrl(url) for url, name in zip(self.urls, urls, strict=True) if name != url)
        object.__setattr__(self, "signed", (*new, *(signed for signed in self.signed if str(signed) in urls)))
        object.__setattr__(self, "urls", urls)
        object.__setattr__(self, "sha256", {without_signature(url): hex for url, hex in self.sha256.items()})
        if unknown := sorted(self.sha256.keys() - set(self.urls)):
            raise ConfigError(f"sha256 has {unknown[0]!r}, which is not in urls")


@dataclass(frozen=True)
class TransformConfig(StepConfig, kind="transform", version=4, body="marin_sft.data.transform:transform"):
    """`input_path`: a downloaded dataset repository, or a directory of data files.

    `source`: what the dataset is called in its rows, mostly its hub id. `adapter`: how its rows are read.
    `subsets`: configurations to take, as `datasets.load_dataset` names them; none means the default one.
    `splits`: those to take of each, as `datasets` spells them ("train", "train[:10%]"); none means all.
    `metadata_columns`: columns of the raw rows that are kept under `metadata`; those that a row lacks are null.
    `max_dropped`: the share of the rows of a split that may be unusable, 0 to 1; one row has to be left in any case.
    """

    input_path: str
    source: str
    adapter: Adapter = FormatAdapter()
    subsets: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train",)
    metadata_columns: tuple[str, ...] = ()
    max_dropped: float = 0.05
    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        _refuse_strings(self, "names", "subsets", "splits", "metadata_columns")
        _check_max_dropped(self.max_dropped)


@dataclass(frozen=True)
class TrainTokenizerConfig(
    StepConfig, kind="train_tokenizer", version=2, body="marin_sft.data.train_tokenizer:train_tokenizer"
):
    """Train a byte-level BPE on all that the rows say.

    `train_paths`: files, directories or globs of .json and .jsonl (.gz) rows. `vocab_size` counts the 256 bytes and
    the special tokens; the tokenizer is smaller where the text has fewer merges. `max_dropped`: the share of rows that
    may be unusable.
    """

    train_paths: tuple[str, ...]
    vocab_size: int = 4096
    format: ChatLmDatasetFormat = ChatLmDatasetFormat()
    max_dropped: float = 0.05
    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        smallest = _BYTES + 3
        if isinstance(self.vocab_size, int) and self.vocab_size < smallest:
            raise ConfigError(f"vocab_size={self.vocab_size}; expected at least {smallest}: 256 bytes and 3 specials")


@dataclass(frozen=True)
class TokenizeConfig(StepConfig, kind="tokenize", version=5, body="marin_sft.data.tokenize:tokenize"):
    """`train_paths`, `validation_paths`: files, directories or globs of rows. `format`: what the rows hold.

    `tokenizer`: the directory of a Hugging Face tokenizer. `max_dropped`: the share of the rows of a split that may be
    unusable, 0 to 1; one row has to be left in any case.
    """

    train_paths: tuple[str, ...]
    tokenizer: str
    format: LmDatasetFormat = ChatLmDatasetFormat()
    validation_paths: tuple[str, ...] = ()
    max_dropped: float = 0.05
    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        _refuse_strings(self, "paths", "train_paths", "validation_paths")
        if not self.train_paths and not self.validation_paths:
            raise ConfigError("train_paths and validation_paths are both empty; expected paths in one of them")
        _check_max_dropped(self.max_dropped)
        if not isinstance(self.format, LmDatasetFormat | UnversionedValue):
            raise ConfigError(f"format={self.format!r}; expected a format, e.g. ChatLmDatasetFormat(shape='alpaca')")


@dataclass(frozen=True)
class MixtureConfig(StepConfig, kind="mixture", version=2, body="marin_sft.data.mixture:mixture"):
    """`data`: the components (outputs of `tokenize` steps), weights and policies. `seq_len`: tokens in a row.

    Of preference data, `seq_len` is the most that prompt and completion have together; `max_prompt_length` and
    `max_completion_length` the most that each has by itself, see `pair_limits`.
    """

    data: LmDataConfig
    seq_len: int
    output_path: str = this_output_path()
    max_prompt_length: int | None = omitted_when(None, default=None)
    max_completion_length: int | None = omitted_when(None, default=None)

    def __post_init__(self) -> None:
        if not isinstance(self.seq_len, UnversionedValue) and not (is_count(self.seq_len) and self.seq_len >= 2):
            raise ConfigError(f"seq_len={self.seq_len!r}; expected at least 2: a token and the one to predict from it")
        for name in PAIR_FIELDS:
            value = getattr(self, name)
            # Without a token of the prompt the first of the completion could not be predicted.
            if value is not None and not isinstance(value, UnversionedValue) and not is_count(value):
                raise ConfigError(f"{name}={value!r}; expected at least 1 token, or None for no limit")


def _refuse_strings(config: StepConfig, of: str, *names: str) -> None:
    """A string is a sequence, too: each of its characters would be taken for one of `of`."""
    for name in names:
        if isinstance(getattr(config, name), str):
            raise ConfigError(f"{name} is one string; expected a list of {of}: [{getattr(config, name)!r}]")


def _check_max_dropped(value: float) -> None:
    """Raise ConfigError unless `value`, a step's `max_dropped`, is a share."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(value, UnversionedValue) and not (number and 0 <= value <= 1):
        raise ConfigError(f"max_dropped={value!r}; expected a share of the rows, 0 to 1")
