"""What the flags of `marin-sft preview` request: rows to show, and more rows to count the dropped ones."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from marin_sft.data.formats import ChatLmDatasetFormat, LmDatasetFormat, shape_names
from marin_sft.data.preview import RowPreview, preview
from marin_sft.data.rows.dropped import ON_PURPOSE
from marin_sft.data.rows.row_files import find_files
from marin_sft.data.tokenizer import load_tokenizer_by_name
from marin_sft.errors import ConfigError, DataError, UserError
from marin_sft.execution.flags import default_prefix
from marin_sft.nearest import nearest_text
from marin_sft.paths import find, local_path, nearest_path
from marin_sft.run.experiment import tokenization

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

AUTO = "auto"
_LOOKED_AT, _LOOKED_AT_TOKENS = 1000, 1_000_000
"""The most rows, and tokens in them, to look at."""
_NOT_BAD = ON_PURPOSE | {"over_length"}
FORMAT_FLAGS = ("format", "format_options", "columns", "role_map", "train_on")
_OF_FORMAT = FORMAT_FLAGS[2:]
_SHOWN_CHARACTERS = 300
_MEND = (
    "Fix the rows, or describe them with --format, --columns and --role_map; in an experiment, with shape=, columns= "
    "and role_map= of the format"
)


@dataclass
class Previews:
    """The rows to show, and counts of more rows, which are complete once `shown` is exhausted.

    shown: the rows to show.
    rows: how many rows were looked at.
    all_rows: whether these are all rows.
    dropped: how many of them are dropped, by reason.
    first: the first dropped row of each reason, in words.
    """

    tokenizer: PreTrainedTokenizerFast
    data: str
    shown: Iterator[RowPreview] = dataclasses.field(default_factory=lambda: iter(()))
    rows: int = 0
    all_rows: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def counted(self, previews: Iterable[RowPreview], shown: int) -> Iterator[RowPreview]:
        """Yields the first `shown` of `previews` and counts the others.

        Raises:
            DataError: at the end, if there were no rows or none can be used.
        """
        tokens = 0
        for row in previews:
            if self.rows >= shown and (self.rows >= _LOOKED_AT or tokens >= _LOOKED_AT_TOKENS):
                break
            self._count(row)
            if self.rows <= shown:
                yield row
            tokens += sum(len(part.input_ids) for document in row.documents for part in document.rows)
        else:
            self.all_rows = True
        if not self.rows:
            raise DataError(f"{self.data}: no rows; expected at least one")
        if self.rows == sum(count for reason, count in self.dropped.items() if reason not in _NOT_BAD):
            reasons = ", ".join(f"{reason}: {count}" for reason, count in self.dropped.most_common())
            raise DataError(f"{self.data}: none of the first {self.rows:,} rows can be used ({reasons}). {_MEND}")

    def counts(self) -> list[str]:
        """Lines with the number of dropped rows, and the first of each reason."""
        which = f"all {self.rows:,}" if self.all_rows else f"the first {self.rows:,}"
        if not self.dropped:
            return [f"Of {which} rows, none is dropped."]
        total = self.dropped.total()
        return [
            f"Of {which} rows, {total:,} {'is' if total == 1 else 'are'} dropped:",
            *(f"  {count:,} {reason}, as {self.first[reason]}" for reason, count in self.dropped.most_common()),
        ]

    def _count(self, row: RowPreview) -> None:
        self.rows += 1
        if row.dropped:
            self.dropped[row.dropped.reason] += 1
            text = f"{row.source.file.name}:{row.source.line}: {row.dropped.message}"
            short = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
            self.first.setdefault(row.dropped.reason, short)


def read_previews(arguments: argparse.Namespace) -> Previews:
    """The previews that the flags request.

    Raises:
        UserError: no such data, format, tokenizer or step.
    """
    asked = _of_data if arguments.experiment is None else _of_experiment
    paths, name, format = asked(arguments)
    for path in paths:
        if local_path(path) is not None and not find(path).names:
            expected = "a file, a directory or a glob of rows"
            raise UserError(f"--data {path!r}: no such file; expected {expected}{nearest_path(path)}")
    try:
        find_files(paths)
    except DataError as error:
        raise UserError(f"--data: {error}") from error
    found = Previews(load_tokenizer_by_name(name), ", ".join(paths))
    shown, limits = arguments.rows, (arguments.max_length, arguments.over_length)
    rows = preview(found.tokenizer, paths, format, shown, *limits, more=max(1, _LOOKED_AT + 1 - shown))
    found.shown = found.counted(rows, shown)
    return found


def _of_experiment(arguments: argparse.Namespace) -> tuple[list[str], str, LmDatasetFormat]:
    """The rows, the tokenizer and the format of a step."""
    said = ("data", "tokenizer", *FORMAT_FLAGS)
    given = [f"--{flag}" for flag in said if getattr(arguments, flag) is not None]
    if given:
        raise UserError(f"preview {arguments.experiment}: got {', '.join(given)}, which the step already sets")
    config = tokenization(arguments.experiment, arguments.step, arguments.prefix or default_prefix())
    return [*(config.train_paths or config.validation_paths)], config.tokenizer, config.format


def _of_data(arguments: argparse.Namespace) -> tuple[list[str], str, LmDatasetFormat]:
    missing = [f"--{flag}" for flag in ("data", "tokenizer") if getattr(arguments, flag) is None]
    if missing:
        raise UserError(
            f"preview: {' and '.join(missing)} not given; expected --data FILE --tokenizer T, or the file of an "
            "experiment and the name of its tokenize step"
        )
    return [os.path.expanduser(arguments.data)], arguments.tokenizer, format_of(arguments)


def format_of(arguments: argparse.Namespace) -> ChatLmDatasetFormat:
    """The format that the flags describe.

    Raises:
        UserError: a value that cannot be used, with the name of the flag.
    """
    names, shape = [AUTO, *shape_names()], arguments.format or AUTO
    if shape not in names:
        raise UserError(f"--format {shape!r}{nearest_text(shape, names)}; expected one of {', '.join(names)}")
    return _format(None if shape == AUTO else shape, arguments)


def _format(shape: str | None, arguments: argparse.Namespace) -> ChatLmDatasetFormat:
    options = _json_object("format_options", arguments.format_options or "{}")
    # JSON cannot express a function, and --format sets the shape.
    known = {field.name for field in dataclasses.fields(ChatLmDatasetFormat)} - {"formatting_func", "shape"}
    for name in options.keys() - known:
        raise UserError(f"--format_options: no option {name!r}{nearest_text(name, sorted(known))}")
    flags = {name: getattr(arguments, name) for name in _OF_FORMAT if getattr(arguments, name) is not None}
    for name, text in flags.items():
        if name in options:
            raise UserError(f"--{name} and --format_options both set {name!r}; expected only one of them")
        options[name] = text if name == "train_on" else _pairs(name, text)
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
    try:
        return ChatLmDatasetFormat(shape=shape, **values)
    except ConfigError as error:
        named = next((name for name in flags if str(error).startswith(name)), "format_options")
        raise ConfigError(f"--{named}: {error}") from error


def _pairs(flag: str, text: str) -> dict[str, object]:
    """`a=b,c=d`, or JSON."""
    if text.lstrip().startswith(("{", "[", '"')):
        return _json_object(flag, text)
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name and value for name, _, value in pairs):
        raise UserError(f"--{flag} {text!r}: expected pairs, as in a=b,c=d, or a JSON object")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _json_object(flag: str, text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"--{flag}: {error}; expected JSON, got {text!r}") from error
    if not isinstance(value, dict):
        raise UserError(f"--{flag}: expected a JSON object, got {text!r}")
    return value
