"""Rows and tokenizers that a script has in memory, as steps known by their content."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from marin_sft.data.step_configs import KeptConfig
from marin_sft.errors import ConfigError
from marin_sft.execution.step import ExecutorStep
from marin_sft.paths import file_system

Row = Mapping[str, Any]
ROWS = "rows.jsonl.gz"
_SPOOL = "_in_memory"
_BATCH = 1000


class Tokenizer(Protocol):
    """The part of transformers' tokenizers that is needed here."""

    def save_pretrained(self, save_directory: str) -> object: ...


@dataclass(frozen=True)
class Kept:
    """A step that keeps what is in memory, and how to write that where the step finds it."""

    step: ExecutorStep[KeptConfig]
    directory: tempfile.TemporaryDirectory[str]
    """Where the files lie, as long as this object lives."""

    def write(self, prefix: str) -> None:
        """Copy the files below the prefix, where the step reads them."""
        target = f"{prefix}/{_SPOOL}/{self._digest}"
        filesystem, plain = file_system(target)
        filesystem.makedirs(plain, exist_ok=True)
        for name in self.step.config.files:
            filesystem.put_file(f"{self.directory.name}/{name}", f"{plain}/{name}")

    def remove(self, prefix: str) -> None:
        """Remove what `write` wrote."""
        filesystem, plain = file_system(f"{prefix}/{_SPOOL}/{self._digest}")
        if filesystem.exists(plain):
            filesystem.rm(plain, recursive=True)

    @property
    def _digest(self) -> str:
        return _digest_of(self.step.config.files)


def _digest_of(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def kept_rows(name: str, rows: Iterable[Row], prefix: str, formatting_func: Callable[..., Any] | None = None) -> Kept:
    """`raw/{name}`: rows in memory, as JSON lines. With `formatting_func`, the texts that it makes of them.

    Raises:
        ConfigError: no rows, rows that are no dictionaries or hold what JSON cannot, rows without an end, or a function
            that answers with something else than texts.
    """
    if isinstance(rows, Mapping):
        raise ConfigError(
            f"{name}: got a {type(rows).__name__} of {', '.join(map(str, rows))}; expected the rows of one of them: "
            f"data[{next(iter(rows), 'train')!r}]"
        )
    if not hasattr(rows, "__len__"):
        raise ConfigError(
            f"{name}: got {type(rows).__name__}, rows without an end, which cannot be known by their content; load the "
            "dataset whole (streaming=False), or name it by its hub id"
        )
    if len(rows) == 0:  # type: ignore[arg-type]
        raise ConfigError(f"{name}: got no rows; expected at least one to train on")
    lines = _json_lines(name, rows if formatting_func is None else texts_of(rows, formatting_func))

    def write(directory: Path) -> None:
        # No name and no time in the header: the same rows are the same bytes.
        with (
            open(directory / ROWS, "wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=1, mtime=0) as packed,
        ):
            for line in lines:
                packed.write(line)

    return _kept(f"raw/{name}", prefix, write)


def kept_tokenizer(name: str, tokenizer: Tokenizer, prefix: str) -> Kept:
    """`tokenizers/{name}`: a tokenizer in memory, with its chat template and all that was added to it."""

    def write(directory: Path) -> None:
        tokenizer.save_pretrained(str(directory))
        config = directory / "tokenizer_config.json"
        if config.is_file():  # how rows would be padded is no part of what is trained
            values = json.loads(config.read_text())
            for idle in ("padding_side", "truncation_side"):
                values.pop(idle, None)
            config.write_text(json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True) + "\n")

    return _kept(f"tokenizers/{name}", prefix, write)


def _kept(step_name: str, prefix: str, write: Callable[[Path], None]) -> Kept:
    directory = tempfile.TemporaryDirectory(prefix="marin_sft-")
    here = Path(directory.name)
    write(here)
    files = {str(path.relative_to(here)): _sha256(path) for path in sorted(here.rglob("*")) if path.is_file()}
    config = KeptConfig(files, from_directory=f"{prefix}/{_SPOOL}/{_digest_of(files)}")
    return Kept(ExecutorStep(step_name, config=config, description="what the script had in memory"), directory)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_abandoned(prefix: str, hours: float) -> list[str]:
    """Remove files that a killed script has left below the prefix, older than `hours`; their directories."""
    filesystem, plain = file_system(f"{prefix}/{_SPOOL}")
    if not filesystem.exists(plain):
        return []
    oldest = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours)
    removed = []
    for directory in filesystem.ls(plain, detail=False):
        files = filesystem.find(directory)
        if all(filesystem.modified(file).astimezone(datetime.UTC) < oldest for file in files):
            filesystem.rm(directory, recursive=True)
            removed.append(directory)
    return removed


def _json_lines(name: str, rows: Iterable[Row]) -> Iterator[bytes]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ConfigError(f"{name}: row {number} is a {type(row).__name__}; expected a dictionary")
        try:
            yield json.dumps(row, ensure_ascii=False, default=_plain).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}: row {number} cannot be kept as JSON: {error}; remove that column") from None


def _plain(value: object) -> object:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    for method in ("tolist", "item"):  # of NumPy and torch
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"got a {type(value).__name__}")


def texts_of(rows: Iterable[Row], formatting_func: Callable[..., Any]) -> Iterator[dict[str, str]]:
    """The texts that a function makes of rows. It is called with batches, as dictionaries of lists, if it answers two
    rows with two texts; otherwise with one row at a time.

    Raises:
        ConfigError: an answer that is no text.
    """
    some = list(_first(rows, 2))
    if _takes_batches(some, formatting_func):
        for batch in _batches(rows):
            texts = formatting_func(_as_columns(batch))
            if len(texts) != len(batch):
                raise ConfigError(f"formatting_func made {len(texts)} texts of {len(batch)} rows; expected one of each")
            yield from ({"text": _text(text)} for text in texts)
        return
    for number, row in enumerate(rows):
        try:
            text = formatting_func(dict(row))
        except Exception as error:
            raise ConfigError(
                f"formatting_func failed on row {number}, which has {sorted(row)}: {type(error).__name__}: {error}"
            ) from error
        yield {"text": _text(text[0] if isinstance(text, list) and len(text) == 1 else text)}


def _takes_batches(some: Sequence[Row], formatting_func: Callable[..., Any]) -> bool:
    two = [some[0], some[-1]]
    try:
        answer = formatting_func(_as_columns(two))
    except Exception:  # a function of one row may fail in any way on two
        return False
    return isinstance(answer, list | tuple) and len(answer) == 2 and all(isinstance(text, str) for text in answer)


def _as_columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in rows[0]}


def _first(rows: Iterable[Row], count: int) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if number == count:
            return
        yield row


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _text(answer: object) -> str:
    if not isinstance(answer, str):
        raise ConfigError(f"formatting_func answered with a {type(answer).__name__}; expected a text for each row")
    return answer
