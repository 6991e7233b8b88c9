"""Tokenized documents on disk: Levanter's TreeCache in its sharded layout, and two small arrays.

    shard_ledger.json          Levanter's: shards in order, rows and tokens of each
    shard_00000/...            a TreeCache of `input_ids` (int32) and `assistant_masks` (uint8)
    lengths.npy, trained.npy   int64, one entry per document

The same rows give the same bytes: shards are cut by row count, one writer writes each of them in one go, and no file
holds a path or a time.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.files import narrow, read_array, read_json, write_array, write_text
from marin_sft.data.near_chunks import NearChunks, Tokens, near_chunks
from marin_sft.errors import DataError
from marin_sft.paths import local_path, unchained

if TYPE_CHECKING:
    import tensorstore

ROWS_PER_SHARD = 8192
"""Decides the bytes on disk. To change it, raise the version of the step."""

_LENGTHS, _TRAINED = "lengths.npy", "trained.npy"
_EXEMPLAR: dict[str, np.ndarray] = {"input_ids": np.zeros(0, np.int32), "assistant_masks": np.zeros(0, np.uint8)}
_LEDGER = "shard_ledger.json"
_CACHED_BYTES = 10**9  # of decompressed chunks, over all caches of a process


@dataclass(frozen=True, eq=False)
class Shard:
    """A written shard: `lengths` and `trained` are int64[documents]."""

    name: str
    lengths: np.ndarray
    trained: np.ndarray


def trained_tokens(mask: np.ndarray) -> int:
    """How many targets can be trained. The first token of a document has nothing before it to predict it from."""
    return int(np.count_nonzero(mask[1:]))


def shard_name(index: int) -> str:
    return f"shard_{index:05d}"


def write_shard(directory: str, index: int, rows: Sequence[TokenRow]) -> Shard:
    """Write `rows` as shard `index` of the cache in `directory`. Shards may be written at the same time."""
    from levanter.store.cache import SerialCacheWriter

    name = shard_name(index)
    if not rows:
        return Shard(name, np.zeros(0, np.int64), np.zeros(0, np.int64))
    with SerialCacheWriter(unchained(f"{directory}/{name}"), _EXEMPLAR) as writer:
        # One write: a second one would rewrite the whole file.
        writer.write_batch([{"input_ids": row.input_ids, "assistant_masks": row.mask} for row in rows])
    masks = [row.mask for row in rows]
    return Shard(name, np.array([len(mask) for mask in masks], np.int64), _trained_of_each(masks))


def _trained_of_each(masks: Sequence[np.ndarray]) -> np.ndarray:
    """`trained_tokens` of each mask, int64[masks], counted at once."""
    ends = np.cumsum([len(mask) for mask in masks])
    targets = np.concatenate(masks).astype(bool)
    firsts = np.append(0, ends[:-1])
    targets[firsts[firsts < ends]] = False
    before = np.append(0, np.cumsum(targets))
    trained: np.ndarray = before[ends] - before[firsts]
    return trained


def finish_cache(directory: str, shards: Sequence[Shard]) -> TokenCache:
    """Combine written shards into one cache, in this order. Empty shards are left out.

    Raises:
        DataError: no document in any shard.
    """
    from levanter.store.cache import CACHE_LAYOUT_SHARDED, CacheLedger

    shards = [shard for shard in shards if len(shard.lengths)]
    if not shards:
        raise DataError(f"{directory}: no document to write; expected at least one")
    fields = {s.name: {field: int(s.lengths.sum()) for field in sorted(_EXEMPLAR)} for s in shards}
    lengths = np.concatenate([s.lengths for s in shards])
    ledger = CacheLedger(
        total_num_rows=len(lengths),
        shard_rows={s.name: len(s.lengths) for s in shards},
        is_finished=True,
        finished_shards=[s.name for s in shards],
        field_counts=dict.fromkeys(sorted(_EXEMPLAR), int(lengths.sum())),
        field_counts_by_shard=fields,
        layout=CACHE_LAYOUT_SHARDED,
    )
    write_array(f"{directory}/{_LENGTHS}", lengths)
    write_array(f"{directory}/{_TRAINED}", np.concatenate([s.trained for s in shards]))
    write_text(f"{directory}/{_LEDGER}", ledger.to_json())
    return TokenCache.open(directory)


class TokenCache:
    """Documents on disk. With many millions of them, the lengths are most of what it keeps in memory."""

    def __init__(
        self, directory: str, lengths: np.ndarray, shard_rows: Mapping[str, int], near: NearChunks | None = None
    ) -> None:
        self.directory, self._near = directory, near
        self._lengths = narrow(lengths)
        self._shards = list(shard_rows)
        self._ends = np.cumsum(list(shard_rows.values()))  # documents up to the end of each shard
        self._arrays: dict[str, tensorstore.TensorStore] = {}  # opened when they are first read

    @staticmethod
    def open(directory: str, keep_near: bool = False) -> TokenCache:
        """keep_near: if the cache is in an object store, keep what is read on the local disk, see near_chunks.py.

        Raises:
            DataError: there is no finished cache in `directory`.
        """
        try:
            shard_rows = read_json(f"{directory}/{_LEDGER}")["shard_rows"]
            lengths = read_array(f"{directory}/{_LENGTHS}")
        except FileNotFoundError as error:
            raise DataError(
                f"{directory}: no token cache; expected the train or validation output of tokenize"
            ) from error
        near = near_chunks(directory) if keep_near and local_path(directory) is None else None
        return TokenCache(directory, lengths, shard_rows, near)

    @property
    def lengths(self) -> np.ndarray:
        """int64[documents]: tokens of each."""
        return self._lengths.astype(np.int64)

    @functools.cached_property
    def trained(self) -> np.ndarray:
        """int64[documents]: trained tokens of each. Read when it is first needed, which is not in training."""
        return read_array(f"{self.directory}/{_TRAINED}")

    def __len__(self) -> int:
        return len(self._lengths)

    def read(self, documents: Sequence[int] | np.ndarray) -> list[TokenRow]:
        """The documents with these numbers, in this order. Ask for many at once: each call is one round of reads.

        Raises:
            IndexError: a number outside 0..len-1.
        """
        documents = np.asarray(documents, np.int64)
        if len(documents) and not 0 <= documents.min() <= documents.max() < len(self):
            raise IndexError(f"{self.directory}: documents {documents.min()}..{documents.max()} of {len(self)}")
        unique, where = np.unique(documents, return_inverse=True)
        found = list(itertools.chain.from_iterable(self._read_ascending(unique)))
        return [found[i] for i in where]

    def _read_ascending(self, documents: np.ndarray) -> Iterator[list[TokenRow]]:
        """One read per field for consecutive documents of a shard. TreeCache would make two per document."""
        shards = np.searchsorted(self._ends, documents, side="right")
        begins = (np.diff(documents, prepend=-2) != 1) | (np.diff(shards, prepend=-1) != 0)
        runs = np.split(np.arange(len(documents)), np.flatnonzero(begins)[1:]) if len(documents) else []
        spans = [self._span(int(shards[run[0]]), documents[run]) for run in runs]
        tokens = [Tokens(f"{name}/{field}/data", *span) for name, *span in spans for field in _EXEMPLAR]
        places = [self.directory] * len(tokens)
        if self._near is not None:
            places = [self._near.path if near else self.directory for near in self._near.bring(tokens)]
        # Start all reads before waiting for the first.
        started = [
            self._opened(f"{place}/{some.array}")[some.start : some.stop].read()
            for place, some in zip(places, tokens, strict=True)
        ]
        reads = zip(*[iter(started)] * len(_EXEMPLAR), strict=True)  # by run
        for run, futures in zip(runs, reads, strict=True):
            ids, mask = (future.result() for future in futures)
            cuts = np.cumsum(self._lengths[documents[run]])[:-1]
            yield [TokenRow(*row) for row in zip(np.split(ids, cuts), np.split(mask, cuts), strict=True)]

    def _span(self, shard: int, run: np.ndarray) -> tuple[str, int, int]:
        """The name of a shard, and the tokens of consecutive documents in it: the first, and the end."""
        first, last = int(run[0]), int(run[-1])
        in_shard = int(self._ends[shard - 1]) if shard else 0
        start = int(self._lengths[in_shard:first].sum())
        return self._shards[shard], start, start + int(self._lengths[first : last + 1].sum())

    def _opened(self, path: str) -> tensorstore.TensorStore:
        if path not in self._arrays:
            self._arrays[path] = _open_array(path)
        return self._arrays[path]


def _open_array(path: str) -> tensorstore.TensorStore:
    """The zarr array of a JaggedArrayStore's data.

    Opened without `levanter.store`, which imports data processing libraries that training does not need.
    """
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": _kvstore_spec(path)}
    return tensorstore.open(spec, open=True, read=True, recheck_cached_data=False, context=_read_context()).result()


def _kvstore_spec(path: str) -> dict[str, object]:
    local = local_path(path)
    if local is not None:  # without Levanter, whose import takes seconds
        return {"driver": "file", "path": os.path.abspath(local)}
    from levanter.tensorstore_serialization import build_kvstore_spec

    spec: dict[str, object] = build_kvstore_spec(unchained(path))
    return spec


@functools.cache
def _read_context() -> tensorstore.Context:
    """One per process, so that all arrays share one cache."""
    import tensorstore

    return tensorstore.Context({"cache_pool": {"total_bytes_limit": _CACHED_BYTES}})
