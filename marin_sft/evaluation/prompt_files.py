"""A file of prompts to answer: rows with "messages" or "prompt", or text with a prompt on each line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from marin_sft.data.files import Json
from marin_sft.data.messages.examples import BadRow, Dialogue, Message
from marin_sft.data.messages.reading import dialogue_of
from marin_sft.data.rows.row_files import PROMPTS, find_files, read_rows
from marin_sft.errors import DataError
from marin_sft.evaluation.answerer import FORMAT, Answerer

_DIALOGUES = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class FilePrompt:
    """`line` of the `file`, None if there is only one. reference: the answer that the row ends with, which is not part
    of the prompt."""

    file: str | None
    line: int
    messages: list[Message]
    tokens: list[int]
    reference: str | None


def read_prompts(path: str, answerer: Answerer, system: str | None) -> list[FilePrompt]:
    """All prompts of a file, or of the files in a directory or matching a glob. system: for those without a system
    message.

    Raises:
        DataError: no such file, no prompts, or a row that is none, with its file and line.
    """
    dialogues = list(read_dialogues(path))
    several = len({file for file, *_ in dialogues}) > 1
    prompts = []
    for file, line, asked, reference in dialogues:
        try:
            prompts.append(_prompt(answerer, file if several else None, line, asked, reference, system))
        except BadRow as bad:
            raise DataError(f"{file}:{line}: {bad.what}") from bad
    return prompts


def read_dialogues(path: str) -> Iterator[tuple[str, int, Dialogue, str | None]]:
    """File, line, what the model is to answer, and the answer that the row ends with.

    Raises:
        DataError: as `read_prompts`.
    """
    are_any = False
    for file, line, row in chain.from_iterable(map(read_rows, find_files([path], PROMPTS))):
        are_any = True
        try:
            asked, reference = _asked(row)
        except BadRow as bad:
            raise DataError(f"{file.path}:{line}: {bad.what}") from bad
        yield file.path, line, asked, reference
    if not are_any:
        raise DataError(f"{path}: no prompts; expected at least one")


def _asked(row: object) -> tuple[Dialogue, str | None]:
    if isinstance(row, BadRow):
        raise row
    dialogue = dialogue_of(_as_messages(row), FORMAT)
    *before, last = dialogue.messages
    if last["role"] != "assistant":
        return dialogue, None
    if not before:
        raise BadRow("empty_dialogue", "the row has an answer and no prompt")
    return replace(dialogue, messages=before), last["content"]


def _prompt(
    answerer: Answerer, file: str | None, line: int, asked: Dialogue, reference: str | None, system: str | None
) -> FilePrompt:
    messages = asked.messages
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    tokens = answerer.prompt(replace(asked, messages=messages))
    if len(tokens) >= answerer.longest:
        raise BadRow(
            "too_long",
            f"the prompt has {len(tokens)} tokens, expected fewer than the model's {answerer.longest}: remove the row "
            "from the prompts",
        )
    return FilePrompt(file, line, messages, tokens, reference)


def _as_messages(row: object) -> Json:
    found = [key for key in _DIALOGUES if isinstance(row, dict) and key in row]
    if not isinstance(row, dict) or len(found) > 1 or not (found or "prompt" in row):
        keys = f"keys {sorted(row)}" if isinstance(row, dict) else f"{str(row)[:80]!r}"
        raise BadRow("unknown_format", f'expected an object with either "messages" or "prompt", got {keys}')
    if found:  # a prompt next to it is what it begins with
        return row
    prompt = row["prompt"]
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return {key: row[key] for key in ("system", "tools", "chat_template_kwargs") if key in row} | {"messages": messages}
