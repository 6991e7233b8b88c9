"""Shows what tokenizing makes of single rows, before a whole dataset is tokenized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from marin_sft.data.chat.alignment import Noted, TokenRow
from marin_sft.data.chat.encode import Encoded, Encoder, PreferenceRow
from marin_sft.data.data_configs import OverLength
from marin_sft.data.formats import ChatLmDatasetFormat, LmDatasetFormat
from marin_sft.data.messages.detection import by_our_names, find_shapes, unused_keys
from marin_sft.data.messages.examples import BadRow, Dialogue, Example, Message, Preference, Rated
from marin_sft.data.messages.reading import examples_of
from marin_sft.data.packing.over_length import fit
from marin_sft.data.packing.pair_limits import PairLimits
from marin_sft.data.rows.row_files import find_files, read_rows
from marin_sft.data.rows.source_rows import SourceRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Document:
    """One document of a row. A row of ranked answers has a pair of documents for each answer worse than the best.

    role: "chosen" or "rejected" in a preference, else None.
    messages: what the chat template is given; None for plain text and for tokens made elsewhere.
    rows: what is trained; several if the document is split.
    noted: see `NOTES` in chat/notes.py.
    """

    role: str | None
    messages: list[Message] | None
    rows: list[TokenRow]
    noted: Noted | None = None


@dataclass(frozen=True)
class RowPreview:
    """What becomes of a row.

    shape: the name of the row's format; None if unknown.
    dropped: why the row cannot be used.
    unused_keys: keys that the format does not use.
    """

    source: SourceRow
    shape: str | None
    documents: list[Document]
    dropped: BadRow | None = None
    unused_keys: frozenset[str] = frozenset()


def preview(
    tokenizer: PreTrainedTokenizerFast,
    paths: str | Sequence[str],
    format: LmDatasetFormat,
    rows: int | None,
    max_length: int | None = None,
    over_length: OverLength = "truncate",
    more: int = 0,
) -> Iterator[RowPreview]:
    """The first `rows` rows (None: all) of `paths`: files, directories or globs. Then `more` rows, which are not split.

    Raises:
        ConfigError: dialogues without a chat template, or preferences with over_length="split".
        DataError: no file, or an unreadable one.
    """
    encoder = Encoder(tokenizer, format)
    sources = (row for file in find_files([paths] if isinstance(paths, str) else paths) for row in read_rows(file))
    for source in islice(sources, rows):
        yield _preview(encoder, format, source, max_length, over_length)
    for source in islice(sources, more):
        yield _preview(encoder, format, source, None if over_length == "split" else max_length, over_length)


def _preview(
    encoder: Encoder, format: LmDatasetFormat, source: SourceRow, max_length: int | None, over_length: OverLength
) -> RowPreview:
    documents: list[Document] = []
    chat = format.as_chat()
    try:
        if isinstance(source.row, BadRow):
            raise source.row
        examples = examples_of(source.row, format)
        documents = [Document(role, said, []) for example in examples for role, said in _messages(example)]
        fitted = [rows for encoded in encoder.encode(examples) for rows in _fitted(encoded, max_length, over_length)]
        whole = [Document(d.role, d.messages, *found) for d, found in zip(documents, fitted, strict=True)]
        return RowPreview(source, _shape(source.row, chat), whole, None, unused_keys(source.row, chat))
    except BadRow as bad:
        return RowPreview(source, _shape(source.row, chat), documents, bad)


def _messages(example: Example) -> list[tuple[str | None, list[Message] | None]]:
    match example:
        case Dialogue():
            return [(None, example.messages)]
        case Rated():
            return [(None, example.dialogue.messages)]
        case Preference():
            return [("chosen", example.prompt + example.chosen), ("rejected", example.prompt + example.rejected)]
    return [("chosen", None), ("rejected", None)] if hasattr(example, "chosen") else [(None, None)]


def _fitted(
    encoded: Encoded | BadRow, max_length: int | None, over_length: OverLength
) -> list[tuple[list[TokenRow], Noted]]:
    """For each document of an example: what is trained, and what is noted about it."""
    if isinstance(encoded, BadRow):
        raise encoded
    if isinstance(encoded, PreferenceRow):
        branches = sides = [encoded.chosen, encoded.rejected]
        if max_length is not None:
            both = PairLimits(max_length, over_length).keep(*branches)
            branches = [kept.of(row) for kept, row in zip(both, branches, strict=True)]
        return [([row], side.noted) for row, side in zip(branches, sides, strict=True)]
    return [([encoded] if max_length is None else fit(encoded, max_length, over_length), encoded.noted)]


def _shape(row: object, format: ChatLmDatasetFormat) -> str | None:
    if format.shape is not None or not isinstance(row, dict):
        return format.shape
    return " or ".join(shape.name for shape in find_shapes(by_our_names(row, format), format)) or None
