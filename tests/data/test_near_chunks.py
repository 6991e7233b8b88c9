import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from marin_sft.data import near_chunks
from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.near_chunks import NearChunks, Tokens
from marin_sft.data.token_cache import TokenCache
from tests.data.on_disk import write_token_cache

DOCUMENTS, LONG = 24, 50_000  # two shards of 12 documents, of three chunks each


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A cache on disk, and its rows."""
    rng = np.random.default_rng(0)
    rows = [
        TokenRow(rng.integers(0, 50_000, LONG).astype(np.int32), rng.integers(0, 2, LONG).astype(np.uint8))
        for _ in range(DOCUMENTS)
    ]
    path = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marin_sft.data.token_cache.ROWS_PER_SHARD", 12)
        write_token_cache(f"{path}/cache", rows)
    return path / "cache", rows


@pytest.fixture
def remote(written, gcs, monkeypatch):
    """The same in an object store: the cache that training opens, its rows, and the server."""
    path, rows = written
    for file in path.rglob("*"):
        if file.is_file():
            gcs.put("bucket", f"cache/{file.relative_to(path)}", file.read_bytes())
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", gcs.url)
    near_chunks.near_chunks.cache_clear()
    yield TokenCache.open("gs://bucket/cache", keep_near=True), rows, gcs
    near_chunks.near_chunks.cache_clear()


def assert_same(found, rows):
    for a, b in zip(found, rows, strict=True):
        np.testing.assert_array_equal(a.input_ids, b.input_ids)
        np.testing.assert_array_equal(a.mask, b.mask)


def test_each_chunk_is_fetched_once(remote):
    cache, rows, server = remote
    stored = {name: len(found.data) for name, found in server.buckets["bucket"].items() if "/data/c/" in name}
    server.requests.clear()
    order = np.random.default_rng(1).permutation(DOCUMENTS)
    for some in np.split(order, 8):
        assert_same(cache.read(some), [rows[i] for i in some])
    ranges = [(r.name, r.headers["range"]) for r in server.requests if r.name in stored]
    assert len(set(ranges)) == len(ranges) <= 4 * (3 + 1), "of four files, three chunks and the index"
    server.requests.clear()
    assert_same(cache.read(order), [rows[i] for i in order])
    assert_same(TokenCache.open("gs://bucket/cache", keep_near=True).read([5]), [rows[5]])
    assert [r.name for r in server.requests if r.name in stored] == []


def test_adjacent_chunks_are_one_request(remote):
    cache, rows, server = remote
    server.requests.clear()
    assert_same(cache.read(range(DOCUMENTS)), rows)
    names = [r.name for r in server.requests]
    assert sorted(names) == sorted(2 * [n for n in set(names) if "/c/" in n] + [n for n in set(names) if "zarr" in n])
    assert len(set(names)) == 8


@pytest.mark.parametrize("why", ["full", "layout", "refused"])
def test_what_cannot_be_kept_is_read_from_the_store(remote, monkeypatch, capsys, why):
    cache, _, server = remote
    near = cache._near
    if why == "full":
        monkeypatch.setattr("marin_sft.data.near_chunks._KEPT_FREE", 1.0)
    elif why == "layout":
        name = "cache/shard_00000/input_ids/data/zarr.json"
        server.put("bucket", name, server.buckets["bucket"][name].data.replace(b"crc32c", b"crc32d"))
    else:
        monkeypatch.setattr(near._system, "cat_ranges", lambda *args: [OSError("refused")])
    tokens = [Tokens("shard_00000/input_ids/data", 0, 10)]
    assert near.bring(tokens) == near.bring(tokens) == [False]
    said = {"full": "the disk is nearly full", "layout": "unknown layout", "refused": "OSError: refused"}[why]
    assert capsys.readouterr().err.count(said) == 1


def test_a_full_disk_keeps_what_is_there(remote, monkeypatch):
    cache, _, _ = remote
    first, later = Tokens("shard_00000/input_ids/data", 0, 10), Tokens("shard_00001/input_ids/data", 0, 10)
    assert cache._near.bring([first]) == [True]
    monkeypatch.setattr("marin_sft.data.near_chunks._KEPT_FREE", 1.0)
    assert cache._near.bring([first, later, first]) == [True, False, True]


def test_read_from_the_store_itself(remote, monkeypatch):
    """By TensorStore, which takes the server's address when it is first used: in a process of its own."""
    _, rows, server = remote
    script = """
        import numpy as np
        from marin_sft.data import near_chunks
        from marin_sft.data.token_cache import TokenCache
        near_chunks._KEPT_FREE = 1.0
        cache = TokenCache.open("gs://bucket/cache", keep_near=True)
        print(sum(int(row.input_ids.sum()) for row in cache.read([3, 20])))
    """
    env = {**os.environ, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(int(rows[i].input_ids.sum()) for i in (3, 20))


def test_copies_of_dead_processes_are_removed(tmp_path):
    """At exit, and if a process was killed, by the next one. Those of living processes stay."""
    script = "from marin_sft.data.near_chunks import _own_directory as own; print(own(), flush=True); input()"
    env = {**os.environ, "TMPDIR": str(tmp_path)}

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", script], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return process, process.stdout.readline().strip()

    killed, first = start()
    killed.kill()
    killed.communicate()
    alive, second = start()
    ending, third = start()
    assert sorted(map(str, tmp_path.iterdir())) == sorted([second, third]) and first not in (second, third)
    for process, path in ((ending, third), (alive, second)):
        process.communicate("\n")
        assert not os.path.exists(path)


def test_nothing_is_kept_in_memory():
    assert near_chunks._in_memory("/proc/self") is False
    if os.path.isdir("/dev/shm"):
        assert near_chunks._in_memory("/dev/shm") is True


def test_a_cache_on_disk_has_no_copy(written):
    path, _ = written
    assert TokenCache.open(str(path), keep_near=True)._near is None
    assert isinstance(near_chunks.near_chunks("memory://x"), NearChunks)
