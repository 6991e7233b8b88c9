"""The step that turns rows into a cache of tokens.

{output_path}/train/        a token cache, see token_cache.py
{output_path}/validation/   the same, when there are validation paths
{output_path}/stats.json    per split: rows, documents, tokens, trained tokens, dropped rows by reason; of pairs their
                            number and "kind": "pairs"; of the tokenizer, a hash of its vocabulary, its size, some ids.
                            Where there are any: "noted", see `NOTES` in chat/notes.py; "unread_keys", which were in
                            so many rows and nobody looked up; "template_date"
{output_path}/metrics.json  the totals
{output_path}/dropped.jsonl the first few dropped rows of each reason, when there are any

A preference pair is two documents, chosen and then rejected; a tokenization holds pairs only, or none.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marin_sft import progress
from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.chat.encode import EXAMPLES_AT_ONCE, Encoder, PreferenceRow
from marin_sft.data.chat.notes import Tally
from marin_sft.data.files import Json, write_json
from marin_sft.data.formats import ChatLmDatasetFormat, LmDatasetFormat
from marin_sft.data.messages.detection import unused_keys
from marin_sft.data.messages.examples import BadRow, Example
from marin_sft.data.messages.reading import examples_of
from marin_sft.data.rows.blocks import plan_blocks, rows_of
from marin_sft.data.rows.dropped import MEND, Dropped, check_dropped, write_dropped
from marin_sft.data.rows.row_files import count_rows, find_files
from marin_sft.data.rows.source_rows import SourceRow, Span
from marin_sft.data.step_configs import TokenizeConfig
from marin_sft.data.token_cache import ROWS_PER_SHARD, Shard, finish_cache, write_shard
from marin_sft.data.tokenizer import load_tokenizer, vocabulary_hash, vocabulary_sample, vocabulary_size
from marin_sft.errors import DataError
from marin_sft.execution.shards import map_shards

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TRAIN, VALIDATION = "train", "validation"
DOCUMENTS, PAIRS = "documents", "pairs"
"""The `kind` of a split. One of documents does not name it."""


@dataclass(frozen=True)
class _Block:
    """Work for one task: rows for one shard of the cache. `first` of `total` rows of the split is its first one.

    `contents` changes with the tokenizer, which a process loads once.
    """

    config: TokenizeConfig
    contents: str
    directory: str
    index: int
    spans: tuple[Span, ...]
    first: int
    total: int


@dataclass(frozen=True)
class _Result:
    shard: Shard
    pairs: int
    dropped: Dropped
    tally: Tally


def tokenize(config: TokenizeConfig) -> None:
    """Write the token caches of `config`. What is written does not depend on how the work is spread.

    Raises:
        ConfigError: no usable tokenizer or chat template.
        DataError: unreadable files, no row left, more than `max_dropped` of a split's rows dropped, or both preference
            pairs and single documents.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    stats: Json = {
        "vocabulary": vocabulary_hash(tokenizer),
        "vocabulary_size": vocabulary_size(tokenizer),
        "vocabulary_sample": vocabulary_sample(tokenizer),
    }
    contents = json.dumps([stats["vocabulary"], tokenizer.chat_template, tokenizer.special_tokens_map])
    _keep(tokenizer, contents)  # some or all blocks are tokenized in this process
    dropped: list[Dropped] = []
    try:
        for split, paths in ((TRAIN, config.train_paths), (VALIDATION, config.validation_paths)):
            if paths:
                stats[split] = _tokenize_split(config, contents, split, paths, dropped)
    finally:
        write_dropped(config.output_path, dropped)  # also when they are too many
    _check_one_kind({split: stats[split] for split in (TRAIN, VALIDATION) if split in stats})
    write_json(f"{config.output_path}/stats.json", stats)
    write_json(f"{config.output_path}/metrics.json", _totals([stats[s] for s in (TRAIN, VALIDATION) if s in stats]))


def _totals(splits: list[Json]) -> dict[str, int]:
    totals = {key: sum(split[key] for split in splits) for key in ("documents", "tokens", "trained_tokens")}
    return {**totals, "dropped": sum(sum(split["dropped"].values()) for split in splits)}


def _check_one_kind(splits: Json) -> None:
    """Raises DataError when there are pairs and other documents."""
    pairs = {split: about.get("pairs", 0) for split, about in splits.items()}
    single = {split: about["documents"] - 2 * pairs[split] for split, about in splits.items()}
    if any(pairs.values()) and any(single.values()):
        raise DataError(
            f"the rows hold preference pairs {pairs} and single documents {single}; expected one kind: tokenize them "
            "as two data sets, or name the shape of those to keep in the format, as in shape='preference', and let "
            "max_dropped allow for the others"
        )


def _tokenize_split(
    config: TokenizeConfig, contents: str, split: str, paths: Sequence[str], dropped_of_splits: list[Dropped]
) -> Json:
    """Write one split; its stats. `dropped_of_splits` gets the rows it dropped."""
    files = find_files(paths)
    counts = map_shards(count_rows, files)
    rows = sum(counts)
    progress.report(0, rows, f"{split} rows")
    directory = f"{config.output_path}/{split}"
    plan = enumerate(plan_blocks(files, counts, ROWS_PER_SHARD))
    blocks = [_Block(config, contents, directory, i, spans, i * ROWS_PER_SHARD, rows) for i, spans in plan]
    results = map_shards(_tokenize_block, blocks)
    dropped = Dropped.together(result.dropped for result in results)
    for sample in dropped.samples:
        sample["split"] = split
    dropped_of_splits.append(dropped)
    where = f"{split}_paths" if rows else f"{split}_paths, {', '.join(file.path for file in files[:5])}"
    check_dropped(rows, dropped, config.max_dropped, where, config.output_path, MEND, config.tokenizer)
    cache = finish_cache(directory, [result.shard for result in results])
    stats: Json = {
        "rows": rows,
        "documents": len(cache),
        "tokens": int(cache.lengths.sum()),
        "trained_tokens": int(cache.trained.sum()),
        "dropped": dict(dropped.counts),
    }
    if pairs := sum(result.pairs for result in results):
        stats |= {"kind": PAIRS, "pairs": pairs}
    stats |= Tally.together(result.tally for result in results).stats(config.format.as_chat())
    progress.report(rows, rows, f"{split} rows", tokens=stats["tokens"], dropped=dropped.counts.total())
    return stats


@contextlib.contextmanager
def _nothing_old_collected() -> Iterator[None]:
    """Garbage collection looks only at what is made inside: the modules loaded before take it longer than many rows."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@_nothing_old_collected()
def _tokenize_block(block: _Block) -> _Result:
    """Tokenize the rows of `block` and write them as one shard."""
    # A block is the work of one core; others are at work on other blocks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    encoder = Encoder(_tokenizer(block.config.tokenizer, block.contents), block.config.format)
    format = block.config.format.as_chat()
    kept: list[TokenRow] = []
    pairs, tally = 0, Tally()
    dropped = Dropped()
    last_dropped = 0
    # The encoder reads ahead.
    read, ahead = itertools.tee(_examples(rows_of(block.spans), block.config.format))
    encoded = encoder.encode(example for _, _, example in ahead)
    for (number, source, _), row in zip(read, encoded, strict=True):
        if isinstance(row, PreferenceRow):
            kept += (row.chosen, row.rejected)  # both in this shard
            pairs += 1
        elif not isinstance(row, BadRow):
            kept.append(row)
        elif number != last_dropped:  # of several bad examples in a row, the first is told
            _check_raised(source, row, format)
            dropped.add(source, row)
            last_dropped = number
        if not isinstance(row, BadRow):
            tally.add(row.noted, unused_keys(source.row, format))
        if number % EXAMPLES_AT_ONCE == 0:
            # Heard when the blocks are tokenized in the step's own process.
            progress.report(block.first + number, block.total, "rows")
    return _Result(write_shard(block.directory, block.index, kept), pairs, dropped, tally)


def _check_raised(source: SourceRow, bad: BadRow, format: ChatLmDatasetFormat) -> None:
    """Raises DataError for a row that the format wants to be told of."""
    if bad.reason == "special_tokens_in_text" and format.special_tokens_in_text == "raise":
        raise DataError(
            f"{source.file.name}:{source.line}: {bad.message}. Take them out of the rows, or choose another "
            "special_tokens_in_text"
        )


_LOADED: dict[str, PreTrainedTokenizerFast] = {}
"""The tokenizer that this process loaded last, by its contents."""


def _tokenizer(path: str, contents: str) -> PreTrainedTokenizerFast:
    if contents not in _LOADED:
        _keep(load_tokenizer(path), contents)
    return _LOADED[contents]


def _keep(tokenizer: PreTrainedTokenizerFast, contents: str) -> None:
    _LOADED.clear()
    _LOADED[contents] = tokenizer


def _examples(
    sources: Iterable[SourceRow], format: LmDatasetFormat
) -> Iterator[tuple[int, SourceRow, Example | BadRow]]:
    """(number of the row from 1, the row, an example that it holds): one, unless the row holds none or several."""
    for number, source in enumerate(sources, 1):
        try:
            if isinstance(source.row, BadRow):
                raise source.row
            for example in examples_of(source.row, format):
                yield number, source, example
        except BadRow as bad:
            yield number, source, bad
