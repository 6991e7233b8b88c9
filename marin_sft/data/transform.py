"""The step that turns the raw rows of a dataset into canonical ones.

{output_path}/[{subset}/]{split}/shard_00000.jsonl.gz  the rows, in their order; the default subset has no folder
{output_path}/stats.json    per subset and split: raw rows, rows written, dropped rows by reason
{output_path}/metrics.json  the totals
{output_path}/dropped.jsonl the first few dropped rows of each reason, when there are any

A row is `{"id", "source", ...}`, then what the adapter made (`canonical.py`), then `"metadata"` with columns of the raw
row. `id` is a hash of what the adapter made: equal dialogues have equal ids.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from marin_sft import progress
from marin_sft.data.files import Json, write_json
from marin_sft.data.finished import FINISHED, taken_over, versions_of, write_finished
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.rows.blocks import COPIES, count_of, cut, rows_of
from marin_sft.data.rows.dropped import Dropped, check_dropped, write_dropped
from marin_sft.data.rows.row_files import write_shard
from marin_sft.data.rows.source_rows import SourceRow, Span
from marin_sft.data.rows.splits import split_files, split_spans
from marin_sft.data.step_configs import TransformConfig
from marin_sft.execution.shards import map_shards
from marin_sft.paths import remove_all

ROWS_PER_SHARD = 5000
SHARDS_PER_TASK = 10

DEFAULT_SUBSET = "default"
_IN_FOLDERS = str.maketrans({"[": "_", ":": "to", "%": "pct", "+": "_and_", "]": None, "(": "_", ")": None})


@dataclass(frozen=True)
class _Block:
    """Work for one task: the rows of several shards.

    folder: of the shards, in the output.
    shard: the number of the first shard.
    first: the number of the first row among the `total` rows of the split.
    """

    config: TransformConfig
    folder: str
    shard: int
    spans: tuple[Span, ...]
    first: int
    total: int


@dataclass
class _Result:
    """taken_over: it is from an earlier attempt."""

    written: int = 0
    dropped: Dropped = field(default_factory=Dropped)
    taken_over: bool = False


def transform(config: TransformConfig) -> None:
    """Write the canonical rows of all subsets and splits. The output does not depend on how the work is split up.

    Raises:
        DataError: a subset or split is missing, files are unreadable, no row is left, or more than `max_dropped` of a
            split's rows are dropped.
    """
    stats: dict[str, Json] = {}
    dropped: list[Dropped] = []
    try:
        for subset in config.subsets or (None,):
            for split in config.splits or split_files(config.input_path, subset):
                folder = _folder(subset, split)
                copies = f"{config.output_path}/{COPIES}/{folder}"
                spans = split_spans(config.input_path, split, subset, copies)
                stats[folder] = _transform_split(config, folder, spans, dropped)
    finally:
        write_dropped(config.output_path, dropped)  # also when they are too many
        remove_all(f"{config.output_path}/{COPIES}")
    write_json(f"{config.output_path}/stats.json", stats)
    totals = {name: sum(split[name] for split in stats.values()) for name in ("rows", "written")}
    write_json(f"{config.output_path}/metrics.json", {**totals, "dropped": sum(d.counts.total() for d in dropped)})
    remove_all(f"{config.output_path}/{FINISHED}")


def _folder(subset: str | None, split: str) -> str:
    """The folder of a split in the output. Brackets, which globs would interpret, are replaced."""
    split = split.translate(_IN_FOLDERS)
    return split if subset in (None, DEFAULT_SUBSET) else f"{subset}/{split}"


def _transform_split(config: TransformConfig, folder: str, spans: list[Span], dropped_of_splits: list[Dropped]) -> Json:
    """Write one split and return its stats. Its dropped rows are appended to `dropped_of_splits`."""
    total = count_of(spans)
    progress.report(0, total, f"{folder} rows")
    per_task = ROWS_PER_SHARD * SHARDS_PER_TASK
    blocks = [
        _Block(config, folder, i * SHARDS_PER_TASK, some, i * per_task, total)
        for i, some in enumerate(cut(spans, per_task))
    ]
    sizes = [count_of(block.spans) for block in blocks]
    results = map_shards(_shards_of, blocks, f"{folder} rows", sizes)
    if earlier := sum(result.taken_over for result in results):
        print(f"{folder}: {earlier} of {len(results)} parts are from an earlier attempt", file=sys.stderr)
    dropped = Dropped.together(result.dropped for result in results)
    dropped_of_splits.append(dropped)
    mend = "fix the rows, or describe them with the adapter"
    check_dropped(total, dropped, config.max_dropped, f"{config.source} {folder}", config.output_path, mend)
    written = sum(result.written for result in results)
    progress.report(total, total, f"{folder} rows", dropped=dropped.counts.total())
    return {"rows": total, "written": written, "dropped": dict(dropped.counts)}


def _shards_of(block: _Block) -> _Result:
    """The shards of `block`: those of an earlier attempt, or else new ones."""
    output, task = block.config.output_path, f"{block.folder}/{block.shard:05d}"
    given = versions_of(block.spans)
    if (found := taken_over(output, tuple(block.config.earlier_attempts), task, given)) is not None:
        return _Result(found["written"], Dropped.from_json(found["dropped"]), taken_over=True)
    result = _Result()
    files = _transform_block(block, result)
    names = [file.removeprefix(f"{output}/") for file in files]
    write_finished(output, task, given, names, {"written": result.written, "dropped": result.dropped.to_json()})
    return result


def _transform_block(block: _Block, result: _Result) -> list[str]:
    """Write the shards of `block`, a row at a time, and return their paths."""
    files = []
    sources = rows_of(block.spans)
    for index in range(math.ceil(count_of(block.spans) / ROWS_PER_SHARD)):
        some = islice(sources, ROWS_PER_SHARD)
        done = block.first + index * ROWS_PER_SHARD
        directory = f"{block.config.output_path}/{block.folder}"
        files.append(write_shard(directory, block.shard + index, _kept_rows(some, block.config, result)))
        # Shown only if the blocks run in the step's own process.
        progress.report(min(done + ROWS_PER_SHARD, block.total), block.total, "rows")
    return files


def _kept_rows(sources: Iterator[SourceRow], config: TransformConfig, result: _Result) -> Iterator[Json]:
    """The canonical rows of `sources`. Counts them, and what is dropped, in `result`."""
    for source in sources:
        try:
            if isinstance(source.row, BadRow):
                raise source.row
            made = [_output_row(canonical, source.row, config) for canonical in config.adapter.canonical(source.row)]
        except BadRow as bad:
            result.dropped.add(source, bad)
        else:
            result.written += len(made)
            yield from made


def _output_row(canonical: Json, raw: Json, config: TransformConfig) -> Json:
    content = json.dumps(canonical, ensure_ascii=False, sort_keys=True)
    return {
        "id": hashlib.sha256(content.encode()).hexdigest(),
        "source": config.source,
        **canonical,
        "metadata": {column: raw.get(column) for column in config.metadata_columns},
    }
