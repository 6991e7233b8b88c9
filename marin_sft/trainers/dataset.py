"""Rows tokenized in this process as training tokenizes them, to look at."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.data_configs import is_count
from marin_sft.data.formats import LmDatasetFormat
from marin_sft.data.preview import preview
from marin_sft.data.tokenizer import load_tokenizer_by_name
from marin_sft.errors import ConfigError, DataError
from marin_sft.paths import find, local_path, nearest_path
from marin_sft.recipes.hub_revisions import id_and_revision
from marin_sft.trainers.configs import SFTConfig
from marin_sft.trainers.rows import first_row, format_of, is_on_hub
from marin_sft.trainers.settings import Dialect

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NOT_TRAINED = -100
Features = dict[str, list[int]]


class SFTDataset(Sequence[Features]):
    """The examples of a file, each a dictionary of lists of one length, not padded.

    "input_ids"; "attention_mask", all ones; "labels", the ids, unshifted, or -100 where nothing is trained.

    data_path: a file, a directory, a glob, or the id of a dataset on the hub.
    tokenizer: one of transformers, or its hub id or directory.
    max_length: tokens of an example; longer ones are cut.
    format_type: "alpaca" or "sharegpt"; "custom" or None: the shape of each row is found out.
    use_chat_template: False: "### Instruction:" and "### Response:".
    split: of a dataset on the hub, slices allowed; None: "train".

    Raises:
        ConfigError: no such file or format, or a split of files.
        DataError: no row can be used.
    """

    def __init__(
        self,
        data_path: str,
        tokenizer: PreTrainedTokenizerFast | str,
        max_length: int = 2048,
        format_type: str | None = None,
        use_chat_template: bool = True,
        split: str | None = None,
    ) -> None:
        if not is_count(max_length):
            raise ConfigError(f"max_length = {max_length!r}: expected a number of tokens from 1")
        settings = SFTConfig(format_type=format_type, no_chat_template=not use_chat_template)
        ready = load_tokenizer_by_name(tokenizer) if isinstance(tokenizer, str) else tokenizer
        self.dropped: dict[str, int] = {}
        self._examples: list[Features] = []
        with _files_of(data_path, split) as path:
            format = format_of(settings.values(Dialect.SCRIPT), first_row(path), pairs=False, texts=False)
            self._read(path, ready, format, max_length)
        if not self._examples:
            raise DataError(f"{data_path}: no row can be used; dropped: {self.dropped}")

    def _read(self, path: str, tokenizer: PreTrainedTokenizerFast, format: LmDatasetFormat, max_length: int) -> None:
        for row in preview(tokenizer, [path], format, None, max_length):
            if row.dropped is not None:
                self.dropped[row.dropped.reason] = self.dropped.get(row.dropped.reason, 0) + 1
            self._examples += [_features(tokens) for document in row.documents for tokens in document.rows]

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Features: ...
    @overload
    def __getitem__(self, index: slice) -> list[Features]: ...
    def __getitem__(self, index: int | slice) -> Features | list[Features]:
        return self._examples[index]

    def __iter__(self) -> Iterator[Features]:
        return iter(self._examples)


@contextlib.contextmanager
def _files_of(data_path: str, split: str | None) -> Iterator[str]:
    """Where the rows lie in files, for a while."""
    if is_on_hub(data_path):
        import datasets

        id, revision = id_and_revision(data_path)
        with tempfile.TemporaryDirectory() as directory:
            rows = datasets.load_dataset(id, revision=revision, split=split or "train")
            rows.to_json(f"{directory}/rows.jsonl")
            yield f"{directory}/rows.jsonl"
        return
    if local_path(data_path) is not None and not find(data_path).names:
        raise ConfigError(
            f"data_path = {data_path!r}: no such file; expected a file, a directory or a glob of rows, or a hub id"
            f"{nearest_path(data_path)}"
        )
    if split is not None:
        raise ConfigError(f"split = {split!r}: files have no splits; expected data_path to name the files of the split")
    yield data_path


def _features(row: TokenRow) -> Features:
    ids, trained = row.input_ids.tolist(), row.mask.tolist()
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": [id if train else NOT_TRAINED for id, train in zip(ids, trained, strict=True)],
    }
