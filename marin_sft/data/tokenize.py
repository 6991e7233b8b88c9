"""The step that turns chat rows into a cache of tokens.

{output_path}/train/        a token cache, see token_cache.py
{output_path}/validation/   the same, when there are validation paths
{output_path}/stats.json    per split: rows, documents, tokens, trained tokens, dropped rows by reason
{output_path}/metrics.json  the totals
{output_path}/dropped.jsonl the first few dropped rows of each reason, when there are any
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marin_sft import progress
from marin_sft.data.files import write_json, write_json_lines
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages import BadRow, check_dropped, dialogue_of
from marin_sft.data.rows import SourceFile, SourceRow, count_rows, find_files, read_rows
from marin_sft.errors import ConfigError
from marin_sft.execution.step import step_fn, this_output_path

if TYPE_CHECKING:
    from marin_sft.data.chat import TokenRow
    from marin_sft.data.token_cache import Shard

TRAIN, VALIDATION = "train", "validation"
SAMPLES_PER_REASON = 5
SAMPLE_CHARACTERS = 2000


@dataclass(frozen=True)
class TokenizeConfig:
    """`train_paths`, `validation_paths`: files, directories or globs of .json and .jsonl (.gz) chat rows.

    `tokenizer`: the directory of a Hugging Face tokenizer. `max_dropped`: the share of the rows of a split that may be
    unusable, 0 to 1; one row has to be left in any case.
    """

    train_paths: tuple[str, ...]
    tokenizer: str
    format: ChatLmDatasetFormat = ChatLmDatasetFormat()
    validation_paths: tuple[str, ...] = ()
    max_dropped: float = 0.05
    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        for name in ("train_paths", "validation_paths"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} is one string; expected a list of paths: [{getattr(self, name)!r}]")
        if not self.train_paths and not self.validation_paths:
            raise ConfigError("train_paths and validation_paths are both empty; expected paths in one of them")
        if isinstance(self.max_dropped, int | float) and not 0 <= self.max_dropped <= 1:
            raise ConfigError(f"max_dropped={self.max_dropped}; expected a share of the rows, 0 to 1")


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` of a file."""

    file: SourceFile
    start: int
    stop: int


@dataclass(frozen=True)
class _Block:
    """Work for one task: rows for one shard of the cache. `first` of `total` rows of the split is its first one."""

    config: TokenizeConfig
    directory: str
    index: int
    spans: tuple[Span, ...]
    first: int
    total: int


@dataclass(frozen=True)
class _Result:
    shard: Shard
    dropped: Counter[str]
    samples: list[dict[str, Any]]


@step_fn(kind="tokenize", version=1)
def tokenize(config: TokenizeConfig) -> None:
    """Write the token caches of `config`. What is written does not depend on how the work is spread.

    Raises:
        ConfigError: no usable tokenizer or chat template.
        DataError: unreadable files, no row left, or more than `max_dropped` of a split's rows dropped.
    """
    from marin_sft.data.tokenizer import load_tokenizer, vocabulary_hash

    stats: dict[str, Any] = {"vocabulary": vocabulary_hash(load_tokenizer(config.tokenizer))}
    samples: list[dict[str, Any]] = []
    for split, paths in ((TRAIN, config.train_paths), (VALIDATION, config.validation_paths)):
        if paths:
            stats[split], dropped = _tokenize_split(config, split, paths)
            samples += dropped
    write_json(f"{config.output_path}/stats.json", stats)
    if samples:
        write_json_lines(f"{config.output_path}/dropped.jsonl", samples)
    write_json(f"{config.output_path}/metrics.json", _totals([stats[s] for s in (TRAIN, VALIDATION) if s in stats]))


def _totals(splits: list[dict[str, Any]]) -> dict[str, int]:
    totals = {key: sum(split[key] for split in splits) for key in ("documents", "tokens", "trained_tokens")}
    return {**totals, "dropped": sum(sum(split["dropped"].values()) for split in splits)}


def _tokenize_split(
    config: TokenizeConfig, split: str, paths: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write one split; its stats, and samples of the rows it dropped."""
    from marin_sft.data.token_cache import ROWS_PER_SHARD, finish_cache
    from marin_sft.execution.backends import map_shards

    files = find_files(paths)
    counts = map_shards(count_rows, files)
    rows = sum(counts)
    progress.report(0, rows, f"{split} rows")
    directory = f"{config.output_path}/{split}"
    plan = enumerate(plan_blocks(files, counts, ROWS_PER_SHARD))
    blocks = [_Block(config, directory, i, spans, i * ROWS_PER_SHARD, rows) for i, spans in plan]
    results = map_shards(_tokenize_block, blocks)
    dropped = sum((result.dropped for result in results), Counter())
    check_dropped(rows, dropped, config.max_dropped, f"{split}_paths")
    cache = finish_cache(directory, [result.shard for result in results])
    stats: dict[str, Any] = {
        "rows": rows,
        "documents": len(cache),
        "tokens": int(cache.lengths.sum()),
        "trained_tokens": int(cache.trained.sum()),
        "dropped": dict(dropped),
    }
    progress.report(rows, rows, f"{split} rows", tokens=stats["tokens"], dropped=dropped.total())
    return stats, _first_of_each([{"split": split, **s} for result in results for s in result.samples])


def plan_blocks(files: Sequence[SourceFile], counts: Sequence[int], rows_per_block: int) -> list[tuple[Span, ...]]:
    """Cut the rows of all `files` (`counts` rows each), in order, into blocks of `rows_per_block`; the last is smaller.

    Small files share a block, large ones are cut, so that blocks depend on the rows only.
    """
    blocks: list[list[Span]] = [[]]
    room = rows_per_block
    for file, count in zip(files, counts, strict=True):
        start = 0
        while start < count:
            if room == 0:
                blocks.append([])
                room = rows_per_block
            stop = min(count, start + room)
            blocks[-1].append(Span(file, start, stop))
            room -= stop - start
            start = stop
    return [tuple(block) for block in blocks if block]


def _tokenize_block(block: _Block) -> _Result:
    """Tokenize the rows of `block` and write them as one shard."""
    from marin_sft.data.token_cache import write_shard
    from marin_sft.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(block.config.tokenizer)
    kept: list[TokenRow] = []
    dropped: Counter[str] = Counter()
    samples: list[dict[str, Any]] = []
    for done, source in enumerate(_rows_of(block), block.first + 1):
        try:
            kept.append(_token_row(tokenizer, source.row, block.config.format))
        except BadRow as bad:
            dropped[bad.reason] += 1
            if dropped[bad.reason] <= SAMPLES_PER_REASON:
                samples.append(_sample(source, bad))
        if done % 500 == 0:
            # Heard when the blocks are tokenized in the step's own process.
            progress.report(done, block.total, "rows")
    return _Result(write_shard(block.directory, block.index, kept), dropped, samples)


def _rows_of(block: _Block) -> Iterator[SourceRow]:
    for span in block.spans:
        yield from read_rows(span.file, span.start, span.stop)


def _token_row(tokenizer: Any, row: Any, format: ChatLmDatasetFormat) -> TokenRow:
    from marin_sft.data.chat import encode_chat
    from marin_sft.data.token_cache import trained_tokens

    if isinstance(row, BadRow):
        raise row
    dialogue = dialogue_of(row, format)
    tokens = encode_chat(tokenizer, dialogue.messages, format, dialogue.tools, dialogue.chat_template_kwargs)
    if trained_tokens(tokens.mask) == 0:
        raise BadRow("no_trained_token", f"none of the {len(tokens.mask)} tokens of the row is trained")
    return tokens


def _sample(source: SourceRow, bad: BadRow) -> dict[str, Any]:
    """What a person needs to find and judge a dropped row. No full path: the output must not depend on places."""
    text = "" if isinstance(source.row, BadRow) else json.dumps(source.row, ensure_ascii=False)[:SAMPLE_CHARACTERS]
    return {
        "file": source.file.name,
        "line": source.line,
        "reason": bad.reason,
        "message": bad.message,
        "row": text,
    }


def _first_of_each(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seen: Counter[str] = Counter()
    first = []
    for sample in samples:
        seen[sample["reason"]] += 1
        if seen[sample["reason"]] <= SAMPLES_PER_REASON:
            first.append(sample)
    return first
