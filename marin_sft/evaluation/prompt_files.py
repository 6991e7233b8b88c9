"""A file of prompts to answer: rows with "messages" or "prompt", or text with a prompt on each line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from marin_sft.data.files import Json
from marin_sft.data.messages.examples import BadRow, Dialogue, Message
from marin_sft.data.messages.reading import dialogue_of
from marin_sft.data.rows.row_files import find_files, read_rows
from marin_sft.errors import DataError
from marin_sft.evaluation.answerer import FORMAT, Answerer
from marin_sft.paths import file_system


@dataclass(frozen=True)
class Place:
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class FilePrompt:
    """`line` of the file. reference: the answer that the row ends with, which is not part of the prompt."""

    line: int
    messages: list[Message]
    tokens: list[int]
    reference: str | None


def read_prompts(path: str, answerer: Answerer, system: str | None) -> list[FilePrompt]:
    """All prompts of a file. system: for those without a system message.

    Raises:
        DataError: no such file, no prompts, or a row that is none, with its file and line.
    """
    prompts = []
    for where, dialogue, reference in read_dialogues(path):
        try:
            prompts.append(_prompt(answerer, where.line, dialogue, reference, system))
        except BadRow as bad:
            raise DataError(f"{where}: {bad.message}") from bad
    return prompts


def read_dialogues(path: str) -> Iterator[tuple[Place, Dialogue, str | None]]:
    """Each prompt of a file, as far as the model is to answer it, and the answer that its row ends with.

    Raises:
        DataError: as `read_prompts`.
    """
    are_any = False
    for file, line, row in _lines(path) if path.endswith(".txt") else _rows(path):
        are_any = True
        try:
            yield Place(file, line), *_asked(row)
        except BadRow as bad:
            raise DataError(f"{file}:{line}: {bad.message}") from bad
    if not are_any:
        raise DataError(f"{path}: no prompts; expected at least one")


def _lines(path: str) -> Iterator[tuple[str, int, object]]:
    """A row for each line that is not blank."""
    filesystem, plain = file_system(path)
    try:
        text = filesystem.cat_file(plain).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8: {error}") from error
    for line, prompt in enumerate(text.split("\n"), 1):
        if prompt.strip():
            yield path, line, {"prompt": prompt.strip()}


def _rows(path: str) -> Iterator[tuple[str, int, object]]:
    for file in find_files([path]):
        for source in read_rows(file):
            yield file.path, source.line, source.row


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


def _prompt(answerer: Answerer, line: int, asked: Dialogue, reference: str | None, system: str | None) -> FilePrompt:
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
    return FilePrompt(line, messages, tokens, reference)


def _as_messages(row: object) -> Json:
    if not isinstance(row, dict) or not ("messages" in row or "prompt" in row):
        keys = f"keys {sorted(row)}" if isinstance(row, dict) else f"{str(row)[:80]!r}"
        raise BadRow("unknown_format", f'expected an object with either "messages" or "prompt", got {keys}')
    if "messages" in row:
        return row
    prompt = row["prompt"]
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return {key: row[key] for key in ("tools", "chat_template_kwargs") if key in row} | {"messages": messages}
