"""Token caches written, and the rows of a mixture read, in one call."""

import itertools

from marin_sft.data import token_cache
from marin_sft.data.packing.documents import PackedRows
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.packing.pairs import PairRows


def write_token_cache(directory, rows):
    """All `rows`, in this process."""
    rows = iter(rows)
    shards = []
    while batch := list(itertools.islice(rows, token_cache.ROWS_PER_SHARD)):
        shards.append(token_cache.write_shard(directory, len(shards), batch))
    return token_cache.finish_cache(directory, shards)


def read_mixture(path):
    """What mixture.json holds."""
    return PackedMixture.open(path, {}).about


def read_packs(mixture, component, split):
    return PackedMixture.open(mixture, {}).rows(PackedRows, component, split)


def read_pairs(mixture, component, split):
    return PackedMixture.open(mixture, {}).rows(PairRows, component, split)
