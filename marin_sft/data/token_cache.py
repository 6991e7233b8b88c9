"""Documents of tokens on disk: Levanter's TreeCache in its sharded layout, and two small arrays beside it.

    shard_ledger.json          Levanter's: shards in order, rows and tokens of each
    shard_00000/...            a TreeCache of `input_ids` (int32) and `assistant_masks` (uint8)
    lengths.npy, trained.npy   int64, one entry per document

The same rows give the same bytes: shards are cut by number of rows, each is written by one writer in one piece, and
nothing on disk holds a path or a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from marin_sft.data.chat import TokenRow
from marin_sft.data.files import read_array, write_array, write_text
from marin_sft.errors import DataError

ROWS_PER_SHARD = 8192
"""Part of the bytes on disk: another number is another version of the step."""

_LENGTHS, _TRAINED = "lengths.npy", "trained.npy"
_EXEMPLAR = {"input_ids": np.zeros(0, np.int32), "assistant_masks": np.zeros(0, np.uint8)}


@dataclass(frozen=True, eq=False)
class Shard:
    """A written shard: `lengths` and `trained` are int64[documents]."""

    name: str
    lengths: np.ndarray
    trained: np.ndarray


def trained_tokens(mask: np.ndarray) -> int:
    """Targets that can be trained: the first token of a document has nothing to be predicted from."""
    return int(np.count_nonzero(mask[1:]))


def write_shard(directory: str, index: int, rows: Sequence[TokenRow]) -> Shard:
    """Write `rows` as shard `index` of the cache in `directory`. Shards may be written at the same time."""
    from levanter.store.cache import SerialCacheWriter

    name = f"shard_{index:05d}"
    if rows:
        with SerialCacheWriter(f"{directory}/{name}", _EXEMPLAR) as writer:
            # In one piece: each further write would rewrite the whole file of the shard.
            writer.write_batch([{"input_ids": row.input_ids, "assistant_masks": row.mask} for row in rows])
    lengths = np.array([len(row.input_ids) for row in rows], np.int64)
    return Shard(name, lengths, np.array([trained_tokens(row.mask) for row in rows], np.int64))


def finish_cache(directory: str, shards: Sequence[Shard]) -> TokenCache:
    """Make one cache of written shards, in this order; empty ones are left out.

    Raises:
        DataError: no document in any shard.
    """
    from levanter.store.cache import CACHE_LAYOUT_SHARDED, CacheLedger

    shards = [shard for shard in shards if len(shard.lengths)]
    if not shards:
        raise DataError(f"{directory}: no document to write; expected at least one")
    fields = {s.name: {field: int(s.lengths.sum()) for field in sorted(_EXEMPLAR)} for s in shards}
    lengths = np.concatenate([s.lengths for s in shards])
    ledger: Any = CacheLedger(
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
    write_text(f"{directory}/shard_ledger.json", ledger.to_json())
    return TokenCache.open(directory)


def write_token_cache(directory: str, rows: Iterable[TokenRow]) -> TokenCache:
    """Write all `rows` in this process.

    Raises:
        DataError: no rows.
    """
    rows = iter(rows)
    shards: list[Shard] = []
    while batch := list(islice(rows, ROWS_PER_SHARD)):
        shards.append(write_shard(directory, len(shards), batch))
    return finish_cache(directory, shards)


@dataclass(frozen=True, eq=False)
class TokenCache:
    """Documents on disk. `lengths`: tokens, `trained`: trained tokens, both int64[documents]."""

    directory: str
    lengths: np.ndarray
    trained: np.ndarray
    _tree: Any

    @staticmethod
    def open(directory: str) -> TokenCache:
        """Raises DataError when there is no finished cache in `directory`."""
        from levanter.store.cache import TreeCache

        try:
            tree = TreeCache.load(directory, _EXEMPLAR)
            return TokenCache(
                directory, read_array(f"{directory}/{_LENGTHS}"), read_array(f"{directory}/{_TRAINED}"), tree
            )
        except FileNotFoundError as error:
            raise DataError(
                f"{directory}: no token cache; expected the train or validation output of tokenize"
            ) from error

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, documents: Sequence[int] | np.ndarray) -> list[TokenRow]:
        """The documents with these numbers, in this order. Ask for many at once: each call is one round of reads.

        Raises:
            IndexError: a number outside 0..len-1.
        """
        documents = np.asarray(documents, np.int64)
        if len(documents) and not 0 <= documents.min() <= documents.max() < len(self):
            raise IndexError(f"{self.directory}: documents {documents.min()}..{documents.max()} of {len(self)}")
        # In order of position, each once: neighbours share the chunk that is read and unpacked.
        unique, where = np.unique(documents, return_inverse=True)
        found = [TokenRow(row["input_ids"], row["assistant_masks"]) for row in self._tree.get_batch_sync(unique)]
        return [found[i] for i in where]
