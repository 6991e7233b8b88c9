"""The format of a dataset, from a trainer's settings and its first row: it says which parts are trained."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from marin_sft.data.formats import (
    ChatLmDatasetFormat,
    LmDatasetFormat,
    PreferenceChatLmDatasetFormat,
    TextLmDatasetFormat,
    TrainOn,
)
from marin_sft.data.messages.detection import by_our_names, find_shapes
from marin_sft.data.messages.shapes import SHAPE_BY_NAME
from marin_sft.errors import ConfigError
from marin_sft.paths import find, local_path
from marin_sft.recipes.sources import is_hub_id

Values = Mapping[str, Any]
_MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
_PAIRS = {"preference", "ranked"}  # shapes of rows that hold a better and a worse answer
_FILE = re.compile(r"\.(jsonl?|parquet|arrow|csv|tsv|txt)(\.\w+)?$")
_SHAPES = {"alpaca": "alpaca", "sharegpt": "sharegpt", "custom": None}

PLAIN_PROMPTS = (
    "{% for message in messages %}{% if message['role'] == 'user' %}### Instruction:\n{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'assistant' %}### Response:\n{% generation %}{{ message['content'] }}{{ eos_token }}"
    "{% endgeneration %}\n{% else %}{{ message['content'] }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)
"""A chat template for models without one, as instruction-following models were trained before chat."""


def is_on_hub(data: str) -> bool:
    """Whether rows are named by a hub id: "data/train.json" is a file, if one that is missing."""
    return is_hub_id(data) and not _FILE.search(data)


def first_row(data: object) -> Mapping[str, Any] | None:
    """The first row of rows in memory or in local files; None: it is not known before anything runs."""
    if isinstance(data, str | Path):
        return _first_of_files(os.path.expanduser(str(data)))
    if isinstance(data, Iterable):
        row = next(itertools.islice(iter(data), 1), None)
        return row if isinstance(row, Mapping) else None  # what is no row is told where rows are kept
    return None


def _first_of_files(path: str) -> Mapping[str, Any] | None:
    if local_path(path) is None or not find(path).names:
        return None
    from marin_sft.data.rows.row_files import find_files, read_rows  # heavy, and of no use for a dataset on the hub

    return next((row.row for file in find_files([path]) for row in read_rows(file)), None)


def completes(row: Mapping[str, Any] | None) -> bool:
    """Whether it is a prompt and its completion, as far as is known."""
    return row is None or {"prompt", "completion"} <= row.keys()


def format_of(values: Values, row: Mapping[str, Any] | None, *, pairs: bool, texts: bool) -> LmDatasetFormat:
    """The format that a trainer's settings ask for.

    row: the first of the rows, where it is known. pairs: of preference training. texts: a function made texts of rows.

    Raises:
        ConfigError: a column that the rows do not have, or a shape that is none.
    """
    template = _template(values)
    if pairs:
        return _format_of_pairs(template, row)
    special = values["add_special_tokens"]
    if texts and values["text_field"] is not None:
        raise ConfigError("formatting_func makes the texts, and dataset_text_field names a column; expected one")
    if texts:
        _check_no_mask(values, "formatting_func")
        return TextLmDatasetFormat(add_special_tokens=special)
    if values["tokens_given"]:
        if row is not None and "input_ids" not in row:
            raise ConfigError(f"skip_prepare_dataset: expected rows with input_ids; they have {sorted(row)}")
        return ChatLmDatasetFormat(shape="tokens")
    field = values["text_field"]
    if field is not None and row is not None and field not in row:
        raise ConfigError(f"dataset_text_field = {field!r}: the rows have no such column; they have {sorted(row)}")
    if field is not None and not _holds_messages(field, row):
        _check_no_mask(values, f"dataset_text_field = {field!r}")
        return TextLmDatasetFormat(field, add_special_tokens=special)
    if isinstance(row, Mapping) and field is None and row.keys() >= {"chosen", "rejected"} and "messages" not in row:
        raise ConfigError(
            "supervised training: the first row has chosen and rejected answers; DPOTrainer or marin-sft dpo trains on "
            "preferences, and dataset_text_field='chosen' on one of the columns"
        )
    shape = values["shape"]
    if shape is not None and shape not in _SHAPES:
        raise ConfigError(f"format_type = {shape!r}: expected one of {', '.join(_SHAPES)}")
    if shape is not None and row is not None and field is None:
        _check_fits(shape, row)
    return ChatLmDatasetFormat(
        messages_field=field or "messages",
        chat_template=template,
        shape=None if shape is None else _SHAPES[shape],
        train_on=_train_on(values),
    )


def _check_no_mask(values: Values, texts: str) -> None:
    """Texts are trained whole. Raises ConfigError where only a part of them was asked for."""
    for setting in values.get("masks", ()):
        raise ConfigError(
            f"{setting} cannot hold for the texts of {texts}: they are trained whole; leave out one of them"
        )


def _format_of_pairs(template: str | None, row: Mapping[str, Any] | None) -> LmDatasetFormat:
    """Raises ConfigError if the first row is known and holds no preference."""
    if row is None or {"chosen", "rejected"} <= row.keys():
        return PreferenceChatLmDatasetFormat(chat_template=template)
    format = ChatLmDatasetFormat(chat_template=template)
    if not _PAIRS & {shape.name for shape in find_shapes(by_our_names(dict(row), format), format)}:
        raise ConfigError(
            f"preference training: expected rows with chosen and rejected answers; the first row has {sorted(row)}"
        )
    return format


def _check_fits(shape: str, row: Mapping[str, Any]) -> None:
    ours = _SHAPES[shape]
    needed = () if ours is None else SHAPE_BY_NAME[ours].needed
    missing = [slot.field for slot in needed if not row.keys() & set(slot.keys)]
    if missing:
        raise ConfigError(
            f"format_type = {shape!r}: the first row has no {' and no '.join(missing)}; it has {sorted(row)}. Without "
            "format_type, the shape of the rows is found out"
        )


def _holds_messages(field: str, row: Mapping[str, Any] | None) -> bool:
    return field in _MESSAGE_COLUMNS if row is None else not isinstance(row[field], str)


def _train_on(values: Values) -> TrainOn:
    if values["prompts_too"] is not None:
        return "everything" if values["prompts_too"] else "assistant"
    if values["answers_only"]:
        return "assistant"
    return "completion" if values["completion_only"] else "everything"


def _template(values: Values) -> str | None:
    if values["plain_prompts"]:
        return PLAIN_PROMPTS
    given: str | None = values["chat_template"]
    if given is not None and "{" not in given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise ConfigError(f"chat_template_path = {given!r}: no such file; expected one, or the text of a template")
        return path.read_text()
    return given
