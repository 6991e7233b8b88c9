"""The prompts of test sets, which rows to train on must not hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from marin_sft.data.chat.special_tokens import pattern_of
from marin_sft.data.lint.leaks import TestPrompts, index_of
from marin_sft.data.lint.rows import row_findings
from marin_sft.data.rows.row_files import find_files, read_rows
from marin_sft.data.step_configs import RowSource
from marin_sft.errors import DataError

_QUESTIONS = ("question", "prompt", "problem", "query", "instruction", "input", "text")
_NO_TOKENS = pattern_of(frozenset())


def read_test_sets(sets: Mapping[str, RowSource], run: int) -> dict[str, TestPrompts]:
    """The prompts of each test set, by runs of `run` words.

    Raises:
        DataError: unreadable files, a set without rows, or a row without a prompt.
    """
    return {name: index_of(list(_prompts(name, source)), run) for name, source in sorted(sets.items())}


def _prompts(name: str, source: RowSource) -> Iterator[str]:
    empty = True
    for file in find_files(source.paths):
        for row in read_rows(file):
            said, found = row_findings(row.row, source.format, _NO_TOKENS)
            text = said[0].prompt if said else _question(row.row)
            if text is None:
                why = found[0].message if found else "it has no text"
                raise DataError(
                    f"test set {name!r}: {file.path}:{row.line}: {why}; expected a row of a known format, or a prompt "
                    f"under one of {', '.join(_QUESTIONS)}"
                )
            empty = False
            yield text
    if empty:
        raise DataError(f"test set {name!r}: no rows in {', '.join(source.paths)}; expected at least one")


def _question(row: object) -> str | None:
    """The prompt of a row of an evaluation, whose answer may be a number or a letter."""
    texts = (row.get(key) for key in _QUESTIONS) if isinstance(row, dict) else ()
    return next((text for text in texts if isinstance(text, str) and text.strip()), None)
