"""`marin-sft report`: the page as one file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from marin_sft.errors import UserError
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.prices import Prices
from marin_sft.execution.store import Store
from marin_sft.execution.tables import counted
from marin_sft.paths import nearest_path
from marin_sft.run.report.contents import contents
from marin_sft.run.report.page import page
from marin_sft.run.report.subject import subject_of


def report_contents(store: Store, texts: Sequence[str], prices: Prices | None = None) -> JsonObject:
    """What a report says about launches, steps or experiment files; without any, about the newest launch."""
    return contents(store, subject_of(store, texts), prices)


def write_report(found: JsonObject, path: str) -> str:
    """Write the report to a local file, and say so.

    Raises:
        UserError: it cannot be written there.
    """
    text = page(found)
    try:
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        near = nearest_path(os.path.dirname(os.path.abspath(path)))
        raise UserError(f"{path}: the report cannot be written: {error.strerror}{near}") from error
    steps = counted(len(found["steps"]), "step")
    return f"wrote {path} ({os.path.getsize(path) / 1e6:.2f} MB): {found['title']}, {steps}. Open it in a browser"
