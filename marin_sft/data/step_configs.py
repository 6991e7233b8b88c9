"""Configs of the steps that make data. Light values, each naming the function that does the work."""

from __future__ import annotations

from dataclasses import dataclass, field

from marin_sft.data.adapters import Adapter, FormatAdapter
from marin_sft.data.data_configs import LmDataConfig, is_count
from marin_sft.data.formats import ChatLmDatasetFormat, LmDatasetFormat, check_choice
from marin_sft.data.lint.findings import THRESHOLDS
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
    "config.json",  # names the tokenizer class if tokenizer_config.json does not
    "merges.txt",
    "sentencepiece*.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer*",
    "vocab*",
)
"""The files of a model repository that make up its tokenizer."""
_BYTES = 256
PAIR_FIELDS = ("max_prompt_length", "max_completion_length")


@dataclass(frozen=True)
class DownloadConfig(StepConfig, kind="download", version=1, body="marin_sft.data.download:download", one_host=True):
    """Files of a repository on the Hugging Face Hub. HF_ENDPOINT and HF_TOKEN set the hub's URL and the token."""

    id: str
    """`org/name`."""

    kind: str = "dataset"
    """Either "dataset" or "model"."""

    revision: str = "main"
    """A commit sha, tag or branch. Only a commit sha always means the same files."""

    allow_patterns: tuple[str, ...] = ()
    """Globs over paths in the repository; `*` also matches `/`. Empty: all files."""

    ignore_patterns: tuple[str, ...] = ()
    """Globs of files to leave out."""

    earlier_attempts: tuple[str, ...] = earlier_attempts()
    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ConfigError(f"kind={self.kind!r}; expected one of {', '.join(map(repr, _KINDS))}")
        _refuse_strings(self, "patterns", "allow_patterns", "ignore_patterns")


class SignedUrl:
    """A URL with credentials in it, such as a signature or a password. Only its `str`, without them, is ever stored."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __repr__(self) -> str:
        return without_signature(self.url)


@dataclass(frozen=True)
class DownloadUrlsConfig(
    StepConfig, kind="download_urls", version=1, body="marin_sft.data.download:download_urls", one_host=True
):
    """Files from https://, gs://, s3:// and other fsspec URLs, named by the last part of their path."""

    urls: tuple[str, ...]
    """Where the files are. Signatures are moved to `signed`: they change from day to day, and the files do not."""

    sha256: dict[str, str] = field(default_factory=dict)
    """Hex digests of the contents, by URL. Not every URL needs one."""

    signed: tuple[SignedUrl, ...] = execution_only(default=())
    """Set from `urls`."""

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
class KeptConfig(StepConfig, kind="keep", version=1, body="marin_sft.data.kept:keep", one_host=True):
    """Files with data that a script had in memory, identified by their content."""

    files: dict[str, str]
    """The SHA-256 of each file in hex, by its name."""

    from_directory: str = execution_only(default="")
    """Where the script wrote them."""

    output_path: str = this_output_path()


@dataclass(frozen=True)
class TransformConfig(
    StepConfig, kind="transform", version=4, body="marin_sft.data.transform:transform", one_host=True
):
    """Raw rows of a dataset -> canonical rows."""

    input_path: str
    """A downloaded dataset repository, or a directory of data files."""

    source: str
    """The name of the dataset in its rows, usually its hub id."""

    adapter: Adapter = FormatAdapter()
    """How its rows are read."""

    subsets: tuple[str, ...] = ()
    """Configurations to take, as `datasets.load_dataset` names them. Empty: the default one."""

    splits: tuple[str, ...] = ("train",)
    """Splits to take of each, as `datasets` spells them ("train", "train[:10%]"). Empty: all."""

    metadata_columns: tuple[str, ...] = ()
    """Columns of the raw rows to keep under `metadata`. A column that a row lacks is null."""

    max_dropped: float = 0.05
    """The share of a split's rows that may be unusable, 0 to 1. At least one row must be left."""

    output_path: str = this_output_path()
    earlier_attempts: tuple[str, ...] = earlier_attempts()

    def __post_init__(self) -> None:
        _refuse_strings(self, "names", "subsets", "splits", "metadata_columns")
        _check_max_dropped(self.max_dropped)


@dataclass(frozen=True)
class TrainTokenizerConfig(
    StepConfig,
    kind="train_tokenizer",
    version=2,
    body="marin_sft.data.train_tokenizer:train_tokenizer",
    one_host=True,
    torch=False,
):
    """A byte-level BPE trained on all texts of the rows."""

    train_paths: tuple[str, ...]
    """Files, directories or globs of rows."""

    vocab_size: int = 4096
    """Includes the 256 bytes and the special tokens. Text with too few merges gives a smaller tokenizer."""

    format: ChatLmDatasetFormat = ChatLmDatasetFormat()
    """What the rows hold."""

    max_dropped: float = 0.05
    """The share of rows that may be unusable, 0 to 1."""

    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        smallest = _BYTES + 3
        if isinstance(self.vocab_size, int) and self.vocab_size < smallest:
            raise ConfigError(
                f"vocab_size={self.vocab_size}; expected at least {smallest}: 256 bytes and 3 special tokens"
            )


@dataclass(frozen=True)
class TokenizeConfig(
    StepConfig, kind="tokenize", version=6, body="marin_sft.data.tokenize:tokenize", one_host=True, torch=False
):
    """Rows -> token caches."""

    train_paths: tuple[str, ...]
    """Files, directories or globs of rows."""

    tokenizer: str
    """The directory of a Hugging Face tokenizer."""

    format: LmDatasetFormat = ChatLmDatasetFormat()
    """What the rows hold."""

    validation_paths: tuple[str, ...] = ()
    """Files, directories or globs of rows."""

    max_dropped: float = 0.05
    """The share of a split's rows that may be unusable, 0 to 1. At least one row must be left."""

    output_path: str = this_output_path()
    earlier_attempts: tuple[str, ...] = earlier_attempts()

    def __post_init__(self) -> None:
        _refuse_strings(self, "paths", "train_paths", "validation_paths")
        if not self.train_paths and not self.validation_paths:
            raise ConfigError("train_paths and validation_paths are both empty; expected paths in one of them")
        _check_max_dropped(self.max_dropped)
        if not isinstance(self.format, LmDatasetFormat | UnversionedValue):
            raise ConfigError(f"format={self.format!r}; expected a format, e.g. ChatLmDatasetFormat(shape='alpaca')")


@dataclass(frozen=True)
class MixtureConfig(StepConfig, kind="mixture", version=2, body="marin_sft.data.mixture:mixture", one_host=True):
    """Token caches -> packed rows of one length."""

    data: LmDataConfig
    """The components (outputs of `tokenize` steps), weights and policies."""

    seq_len: int
    """Tokens in a row; for preference pairs, the most tokens of prompt and completion together."""

    output_path: str = this_output_path()

    max_prompt_length: int | None = omitted_when(None, default=None)
    """For preference pairs, the most tokens of a prompt, see `pair_limits`."""

    max_completion_length: int | None = omitted_when(None, default=None)
    """For preference pairs, the most tokens of a completion, see `pair_limits`."""

    def __post_init__(self) -> None:
        if not isinstance(self.seq_len, UnversionedValue) and not (is_count(self.seq_len) and self.seq_len >= 2):
            raise ConfigError(f"seq_len={self.seq_len!r}; expected a whole number, at least 2: a token and the next")
        for name in PAIR_FIELDS:
            value = getattr(self, name)
            # Without a token of the prompt the first of the completion could not be predicted.
            if value is not None and not isinstance(value, UnversionedValue) and not is_count(value):
                raise ConfigError(f"{name}={value!r}; expected at least 1 token, or None for no limit")


@dataclass(frozen=True)
class RowSource:
    """Rows of one format."""

    paths: tuple[str, ...]
    """Files, directories or globs."""

    format: LmDatasetFormat = ChatLmDatasetFormat()
    """What the rows hold."""


@dataclass(frozen=True)
class LintConfig(StepConfig, kind="lint", version=1, body="marin_sft.data.lint.lint:lint", one_host=True, torch=False):
    """Rows -> what is wrong with them."""

    components: dict[str, RowSource]
    """The rows to look at, by name. Copies are looked for within and across components."""

    test_sets: dict[str, RowSource] = field(default_factory=dict)
    """Rows of evaluations, by name, whose prompts should not be in the components."""

    tokenizer: str | None = None
    """The directory of a tokenizer, whose special tokens no text should hold. None: those of common chat formats."""

    fail_above: dict[str, float] = field(default_factory=dict)
    """For findings by name, the share of a component's rows above which the step fails: {"duplicate_rows": 0.01}. Also
    "longer_chosen", the share of pairs whose chosen answer is the longer one."""

    near_similarity: float = 0.8
    """How much two prompts must have in common to count as near-duplicates: the share of the runs of 3 words in either
    that are in both."""

    leak_words: int = 8
    """The length of the runs of words by which prompts of `test_sets` are found."""

    leak_share: float = 0.5
    """The share of a test prompt's words that such runs in one row must cover."""

    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        if not self.components:
            raise ConfigError("components is empty; expected rows to look at")
        for name, most in self.fail_above.items() if isinstance(self.fail_above, dict) else ():
            check_choice("fail_above", name, THRESHOLDS)
            _check_share(f"fail_above[{name!r}]", most)
        _check_share("near_similarity", self.near_similarity)
        _check_share("leak_share", self.leak_share)
        if not isinstance(self.leak_words, UnversionedValue) and not is_count(self.leak_words):
            raise ConfigError(f"leak_words={self.leak_words!r}; expected a whole number of at least 1")


def _refuse_strings(config: StepConfig, of: str, *names: str) -> None:
    """Raise ConfigError for a string where a list of `of` belongs: its characters would be taken for the items."""
    for name in names:
        if isinstance(getattr(config, name), str):
            raise ConfigError(f"{name} is one string; expected a list of {of}: [{getattr(config, name)!r}]")


def _check_max_dropped(value: float) -> None:
    """Raise ConfigError unless `value`, a step's `max_dropped`, is a share."""
    _check_share("max_dropped", value)


def _check_share(where: str, value: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(value, UnversionedValue) and not (number and 0 <= value <= 1):
        raise ConfigError(f"{where}={value!r}; expected a share of the rows, 0 to 1")
