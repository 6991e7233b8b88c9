"""The step that turns rows into a cache of tokens.

{output_path}/train/        a token cache, see token_cache.py
{output_path}/validation/   the same, when there are validation paths
{output_path}/stats.json    of the tokenizer: a hash of its vocabulary, its size, some ids. Per split: rows, documents,
                            tokens, trained tokens, dropped rows by reason; for pairs also their number and
                            "kind": "pairs". If there are any: "noted", see `NOTES` in chat/notes.py; "unread_keys",
                            keys that nothing reads, with the number of rows that have them; "template_date"
{output_path}/metrics.json  the totals
{output_path}/dropped.jsonl the first few dropped rows of each reason, when there are any

A preference pair is two documents: chosen, then rejected. A tokenization holds only pairs, or none.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from marin_sft import progress
from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.chat.encode import EXAMPLES_AT_ONCE, Encoder, PreferenceRow
from marin_sft.data.chat.notes import Tally
from marin_sft.data.files import Json, write_json
from marin_sft.data.finished import FINISHED, taken_over, versions_of, write_finished
from marin_sft.data.formats import ChatLmDatasetFormat, LmDatasetFormat
from marin_sft.data.messages.detection import unused_keys
from marin_sft.data.messages.examples import BadRow, Example
from marin_sft.data.messages.reading import examples_of
from marin_sft.data.rows.blocks import COPIES, count_files, count_of, cut, rows_of
from marin_sft.data.rows.dropped import MEND, Dropped, check_dropped, write_dropped
from marin_sft.data.rows.row_files import find_files
from marin_sft.data.rows.source_rows import SourceRow, Span
from marin_sft.data.step_configs import TokenizeConfig
from marin_sft.data.token_cache import ROWS_PER_SHARD, Shard, finish_cache, shard_name, write_shard
from marin_sft.data.tokenizer import load_tokenizer, vocabulary_hash, vocabulary_sample, vocabulary_size
from marin_sft.errors import DataError
from marin_sft.execution.shards import map_shards
from marin_sft.paths import find, remove_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TRAIN, VALIDATION = "train", "validation"
DOCUMENTS, PAIRS = "documents", "pairs"
"""The `kind` of a split in stats.json, which leaves it out for documents."""


@dataclass(frozen=True)
class _Block:
    """Work for one task: the rows of one shard of the cache.

    contents: tells tokenizers apart. A process loads a tokenizer once.
    split: the directory of its shard in the output.
    first: the number of its first row among the `total` rows of the split.
    """

    config: TokenizeConfig
    contents: str
    split: str
    index: int
    spans: tuple[Span, ...]
    first: int
    total: int


@dataclass(frozen=True)
class _Result:
    """taken_over: it is from an earlier attempt."""

    shard: Shard
    pairs: int
    dropped: Dropped
    tally: Tally
    taken_over: bool = False

    def to_json(self) -> Json:
        shard = {"lengths": self.shard.lengths.tolist(), "trained": self.shard.trained.tolist()}
        return {**shard, "pairs": self.pairs, "dropped": self.dropped.to_json(), "tally": vars(self.tally)}

    @staticmethod
    def from_json(name: str, value: Json) -> _Result:
        shard = Shard(name, *(np.array(value[key], np.int64) for key in ("lengths", "trained")))
        tally = Tally(**{name: Counter(counts) for name, counts in value["tally"].items()})
        return _Result(shard, value["pairs"], Dropped.from_json(value["dropped"]), tally, taken_over=True)


def tokenize(config: TokenizeConfig) -> None:
    """Write the token caches of `config`. The output does not depend on how the work is split up.

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
        remove_all(f"{config.output_path}/{COPIES}")
    _check_one_kind({split: stats[split] for split in (TRAIN, VALIDATION) if split in stats})
    write_json(f"{config.output_path}/stats.json", stats)
    write_json(f"{config.output_path}/metrics.json", _totals([stats[s] for s in (TRAIN, VALIDATION) if s in stats]))
    remove_all(f"{config.output_path}/{FINISHED}")


def _totals(splits: list[Json]) -> dict[str, int]:
    totals = {key: sum(split[key] for split in splits) for key in ("documents", "tokens", "trained_tokens")}
    return {**totals, "dropped": sum(sum(split["dropped"].values()) for split in splits)}


def _check_one_kind(splits: Json) -> None:
    """Raises DataError if there are both pairs and single documents."""
    pairs = {split: about.get("pairs", 0) for split, about in splits.items()}
    single = {split: about["documents"] - 2 * pairs[split] for split, about in splits.items()}
    if any(pairs.values()) and any(single.values()):
        raise DataError(
            f"the rows hold preference pairs {pairs} and single documents {single}; expected one kind: tokenize them "
            "as two datasets, or keep one kind by its shape in the format, e.g. shape='preference', and raise "
            "max_dropped to allow for the others"
        )


def _tokenize_split(
    config: TokenizeConfig, contents: str, split: str, paths: Sequence[str], dropped_of_splits: list[Dropped]
) -> Json:
    """Write one split and return its stats. Its dropped rows are appended to `dropped_of_splits`."""
    files = find_files(paths)
    whole = count_files(files, f"{config.output_path}/{COPIES}/{split}")
    rows = count_of(whole)
    progress.report(0, rows, f"{split} rows")
    plan = enumerate(cut(whole, ROWS_PER_SHARD))
    blocks = [_Block(config, contents, split, i, spans, i * ROWS_PER_SHARD, rows) for i, spans in plan]
    sizes = [count_of(block.spans) for block in blocks]
    results = map_shards(_shard_of, blocks, f"{split} rows", sizes)
    if earlier := sum(result.taken_over for result in results):
        print(f"{split}: {earlier} of {len(results)} shards are from an earlier attempt", file=sys.stderr)
    dropped = Dropped.together(result.dropped for result in results)
    for sample in dropped.samples:
        sample["split"] = split
    dropped_of_splits.append(dropped)
    where = f"{split}_paths" if rows else f"{split}_paths, {', '.join(file.path for file in files[:5])}"
    check_dropped(rows, dropped, config.max_dropped, where, config.output_path, MEND, config.tokenizer, config.format)
    cache = finish_cache(f"{config.output_path}/{split}", [result.shard for result in results])
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
    """Garbage collection skips what exists already: to scan the loaded modules takes longer than many rows."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _shard_of(block: _Block) -> _Result:
    """The shard of `block`: that of an earlier attempt, or else a new one."""
    output, name = block.config.output_path, shard_name(block.index)
    task, given = f"{block.split}/{name}", {"tokenizer": block.contents, "rows": versions_of(block.spans)}
    found = taken_over(output, tuple(block.config.earlier_attempts), task, given)
    if found is not None:
        return _Result.from_json(name, found)
    result = _tokenize_block(block)
    files = find(f"{output}/{task}").names if len(result.shard.lengths) else ()
    write_finished(output, task, given, [f"{task}/{file}" for file in files], result.to_json())
    return result


@_nothing_old_collected()
def _tokenize_block(block: _Block) -> _Result:
    """Tokenize the rows of `block` and write them as one shard."""
    # A block has one core; the other cores have other blocks.
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
        elif number != last_dropped:  # only the first bad example of a row is reported
            _check_raised(source, row, format)
            dropped.add(source, row)
            last_dropped = number
        if not isinstance(row, BadRow):
            tally.add(row.noted, unused_keys(source.row, format))
        if number % EXAMPLES_AT_ONCE == 0:
            # Shown only if the blocks run in the step's own process.
            progress.report(block.first + number, block.total, "rows")
    shard = write_shard(f"{block.config.output_path}/{block.split}", block.index, kept)
    return _Result(shard, pairs, dropped, tally)


def _check_raised(source: SourceRow, bad: BadRow, format: ChatLmDatasetFormat) -> None:
    """Raises DataError for a row that the format says to raise on."""
    if bad.reason == "special_tokens_in_text" and format.special_tokens_in_text == "raise":
        raise DataError(
            f"{source.file.name}:{source.line}: {bad.message}. Remove them from the rows, or choose another "
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
    """(row number from 1, row, example): one per row, or several for ranked answers. A bad row gives a BadRow."""
    for number, source in enumerate(sources, 1):
        try:
            if isinstance(source.row, BadRow):
                raise source.row
            for example in examples_of(source.row, format):
                yield number, source, example
        except BadRow as bad:
            yield number, source, bad
