"""Files of outputs, read with care: they may be large, damaged, or not ours."""

from __future__ import annotations

import json

from marin_sft.errors import DamagedFile
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.store import Store

_LARGEST = 16 << 20  # bytes


def read_json(store: Store, path: str) -> JsonObject | None:
    """A JSON object, or None if there is no file.

    Raises:
        DamagedFile: it is no JSON object, or too large for a page.
    """
    data = store.read_from(path, 0, _LARGEST + 1)
    if not data:
        return None
    if len(data) > _LARGEST:
        raise DamagedFile(f"{path}: more than {_LARGEST:,} bytes, too large for a page")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path}: expected JSON, got {len(data)} bytes: {error}") from None
    if not isinstance(value, dict):
        raise DamagedFile(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def read_rows(store: Store, path: str, limit: int) -> tuple[list[JsonObject], int]:
    """The objects in the first `limit` bytes of a JSON Lines file, and the number of lines that cannot be read."""
    data = store.read_from(path, 0, limit)
    lines = data.split(b"\n")
    if len(data) == limit:
        lines = lines[:-1]  # torn
    rows, bad = [], 0
    for line in filter(None, lines):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            rows.append(value)
        else:
            bad += 1
    return rows, bad
