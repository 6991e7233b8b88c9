"""Default settings for a model and its data, from the size of the model and the first rows."""

from __future__ import annotations

import itertools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marin_sft.errors import TrainingError
from marin_sft.paths import find, local_path
from marin_sft.training.models import rope_scaling as rope
from marin_sft.training.models.model_directory import ModelDirectory

_ROWS_READ = 1000
_CHARACTERS_PER_TOKEN = 3.5
_LONGEST, _SHORTEST = 4096, 256
_FEWEST_TO_SPLIT = 40
_HELD_OUT = 0.05
_EPOCHS = 3
_UPDATES_PER_EPOCH = 40
_UNKNOWN_EXAMPLES = 10_000


@dataclass(frozen=True)
class _Rows:
    """How many there are, and the tokens of some of them, by their characters."""

    count: int
    tokens: list[float]


def recommended(
    data: object, model: str, *, pairs: bool, lora: bool, devices: int, rope_scaling: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The settings left out of a call of our own, by our names.

    Rows: as long as the longest of the first thousand needs, at most 4096 tokens and what the model takes. Updates:
    about forty in an epoch, of 8 to 128 examples. Learning rates: those that are usual for the size of the model.
    """
    rows = _look_at(data)
    longest = min(longest_of(model, rope_scaling) or _LONGEST, _LONGEST)
    needed = max(rows.tokens, default=_LONGEST) * (2 if pairs else 1)
    seq_len = min(max(_power_of_two(1.2 * needed), _SHORTEST), longest)
    examples = min(max(_power_of_two(rows.count / _UPDATES_PER_EPOCH), 8), 128)
    in_a_row = 1.0
    if not pairs and rows.tokens:
        in_a_row = max(1.0, seq_len / (sum(rows.tokens) / len(rows.tokens)))
    batch = max(1, round(examples / in_a_row))
    return {
        "seq_len": seq_len,
        "batch_size": devices * math.ceil(batch / devices),
        "num_train_epochs": 1 if pairs else _EPOCHS,
        "learning_rate": _learning_rate(model, pairs=pairs, lora=lora),
        "validation_fraction": _HELD_OUT if rows.count >= _FEWEST_TO_SPLIT else None,
    }


def longest_of(model: str, rope_scaling: dict[str, Any] | None = None) -> int | None:
    """The positions that a model in a local directory takes with `rope_scaling`, see `RopeSettings`; None: not known
    before it is downloaded."""
    rope.RopeSettings(rope_scaling=rope_scaling).check_rope()
    try:
        return rope.longest_of(ModelDirectory(os.path.expanduser(model), rope_scaling).config)
    except TrainingError:  # on the hub, or no model: its step says so
        return None


def _learning_rate(model: str, *, pairs: bool, lora: bool) -> float:
    if pairs:
        return 1e-5 if lora else 1e-6
    if lora:
        return 2e-4
    parameters = _parameters_of(model)
    small, tiny = 10**9, 10**8
    return 1e-5 if parameters is None or parameters >= small else 1e-4 if parameters < tiny else 5e-5


def _parameters_of(model: str) -> float | None:
    """About as many weights as a model in a local directory has."""
    config = _config_of(model)
    try:
        width, layers = config["hidden_size"], config["num_hidden_layers"]
        return layers * (4 * width**2 + 3 * width * config["intermediate_size"]) + config["vocab_size"] * width
    except (KeyError, TypeError):
        return None


def _config_of(model: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(os.path.expanduser(model), "config.json").read_text())
    except (OSError, ValueError):  # on the hub, or no model: its step says so
        return {}
    return found if isinstance(found, dict) else {}


def _look_at(data: object) -> _Rows:
    if not isinstance(data, str | Path):
        rows = data if hasattr(data, "__len__") else []
        return _Rows(len(rows), [_tokens(row) for row in itertools.islice(iter(rows), _ROWS_READ)])  # type: ignore
    path = os.path.expanduser(str(data))
    if local_path(path) is None or not find(path).names:
        return _Rows(_UNKNOWN_EXAMPLES, [])
    from marin_sft.data.rows.row_files import count_rows, find_files, read_rows  # heavy, and of no use for the hub

    files = find_files([path])
    some = itertools.islice((row.row for file in files for row in read_rows(file)), _ROWS_READ)
    return _Rows(sum(map(count_rows, files)), [_tokens(row) for row in some])


def _tokens(row: object) -> float:
    return len(json.dumps(row, ensure_ascii=False, default=str)) / _CHARACTERS_PER_TOKEN


def _power_of_two(number: float) -> int:
    return 2 ** max(0, math.ceil(math.log2(max(number, 1))))
