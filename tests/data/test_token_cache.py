import numpy as np
import pytest

from marin_sft.data import token_cache
from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.token_cache import TokenCache, finish_cache, trained_tokens, write_shard
from marin_sft.errors import DataError
from tests.data.on_disk import write_token_cache


def random_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 50, count)
    return [
        TokenRow(rng.integers(0, 50_000, n).astype(np.int32), rng.integers(0, 2, n).astype(np.uint8)) for n in lengths
    ]


def assert_same(found, rows):
    assert len(found) == len(rows)
    for a, b in zip(found, rows, strict=True):
        assert a.input_ids.dtype == np.int32 and a.mask.dtype == np.uint8
        np.testing.assert_array_equal(a.input_ids, b.input_ids)
        np.testing.assert_array_equal(a.mask, b.mask)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(token_cache, "ROWS_PER_SHARD", 40)


def test_under_a_name_with_any_characters(tmp_path, small_shards):
    rows = random_rows(50)
    for name in ("plain", "lr=[1e-4]*::y"):
        write_token_cache(f"{tmp_path}/{name}/cache", iter(rows))
        assert_same(TokenCache.open(f"{tmp_path}/{name}/cache").read(range(50)), rows)
    one, other = (files_of(tmp_path / name) for name in ("plain", "lr=[1e-4]*::y"))
    assert one == other and sorted(path.name for path in tmp_path.iterdir()) == ["lr=[1e-4]*::y", "plain"]


def files_of(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_write_and_read(tmp_path, small_shards):
    rows = random_rows(100)
    write_token_cache(f"{tmp_path}/cache", iter(rows))
    cache = TokenCache.open(f"{tmp_path}/cache")
    assert len(cache) == 100 and cache.lengths.dtype == cache.trained.dtype == np.int64
    assert cache.lengths.tolist() == [len(r.input_ids) for r in rows]
    assert cache.trained.tolist() == [int(r.mask[1:].sum()) for r in rows]
    assert_same(cache.read(range(100)), rows)
    some = [99, 0, 40, 39, 0, 81]
    assert_same(cache.read(some), [rows[i] for i in some])
    assert cache.read([]) == []
    for outside in ([100], [-1]):
        with pytest.raises(IndexError, match="of 100"):
            cache.read(outside)


def test_same_rows_same_bytes(tmp_path, small_shards, helpers):
    for name in ("one", "other/deeper"):
        write_token_cache(f"{tmp_path}/{name}", random_rows(100))
    assert helpers.tree_hash(tmp_path / "one") == helpers.tree_hash(tmp_path / "other/deeper")
    write_token_cache(f"{tmp_path}/differs", random_rows(100, seed=1))
    assert helpers.tree_hash(tmp_path / "one") != helpers.tree_hash(tmp_path / "differs")


def test_trained_tokens_of_each_row(tmp_path):
    rows = [*random_rows(20), TokenRow(np.zeros(0, np.int32), np.zeros(0, np.uint8)), *random_rows(20, seed=1)]
    shard = write_shard(str(tmp_path), 0, rows)
    assert shard.lengths.tolist() == [len(row.mask) for row in rows]
    assert shard.trained.tolist() == [trained_tokens(row.mask) for row in rows]


def test_shards_in_any_order(tmp_path):
    rows = random_rows(30)
    parts = {2: rows[20:], 0: rows[:20], 1: []}
    shards = {i: write_shard(str(tmp_path), i, part) for i, part in parts.items()}
    cache = finish_cache(str(tmp_path), [shards[i] for i in range(3)])
    assert_same(cache.read(range(30)), rows)


def test_readable_by_levanter(tmp_path):
    from levanter.store.cache import TreeCache

    rows = random_rows(10)
    write_token_cache(str(tmp_path), rows)
    exemplar = {"input_ids": np.zeros(0, np.int32), "assistant_masks": np.zeros(0, np.uint8)}
    tree = TreeCache.load(str(tmp_path), exemplar)
    assert len(tree) == 10
    np.testing.assert_array_equal(tree[7]["input_ids"], rows[7].input_ids)
    np.testing.assert_array_equal(tree[7]["assistant_masks"], rows[7].mask)


def test_errors(tmp_path):
    with pytest.raises(DataError, match="no token cache"):
        TokenCache.open(str(tmp_path))
    with pytest.raises(DataError, match="at least one"):
        write_token_cache(str(tmp_path), [])
