import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from marin_sft.errors import StoreError
from marin_sft.execution.store import LocalStore, open_store, probe


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    store = open_store(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}")
    yield store
    store.remove(store.path(""))


def test_create_exclusive_keeps_the_first(store):
    path = store.path("a/b.json")
    assert store.create_exclusive(path, b"1") and not store.create_exclusive(path, b"2")
    assert store.read(path) == b"1"
    assert store.names(store.path("a")) == ["b.json"]


def test_nothing_there(store):
    assert store.read(store.path("x")) is None
    assert store.names(store.path("x")) == []
    store.remove(store.path("x"))


def test_replace_remove_and_probe(store):
    probe(store)
    store.replace(store.path("beat"), b"1")
    store.replace(store.path("beat"), b"2")
    assert store.read(store.path("beat")) == b"2"
    store.remove(store.path("beat"))
    assert store.read(store.path("beat")) is None


def test_files_leave_out_our_own(store):
    for name in ("3/b.txt", "3/a/.inner", "3/.record.json", "3/.hidden/x"):
        store.create_exclusive(store.path(name), b"12")
    files = store.files(store.path("3"))
    assert [(file.path, file.size) for file in files] == [("a/.inner", 2), ("b.txt", 2)]
    assert files[0].digest == files[1].digest is not None


def test_one_winner_of_many_threads(store):
    wins = []
    barrier = threading.Barrier(8)

    def race(number: int) -> None:
        for i in range(50):
            barrier.wait()
            if store.create_exclusive(store.path(f"claims/{i}"), b"%d" % number):
                wins.append(i)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == list(range(50))


def _claim_all(prefix: str, number: int) -> list[int]:
    store = LocalStore(prefix)
    return [i for i in range(300) if store.create_exclusive(store.path(f"claims/{i}"), b"%d" % number)]


def test_one_winner_of_many_processes(tmp_path):
    with ProcessPoolExecutor(4) as pool:
        wins = list(pool.map(_claim_all, [str(tmp_path)] * 4, range(4)))
    assert sorted(sum(wins, [])) == list(range(300))


def test_latest_link(tmp_path: Path):
    store = LocalStore(str(tmp_path))
    store.point_latest(str(tmp_path), "1")
    store.point_latest(str(tmp_path), "2")
    assert (tmp_path / "latest").readlink() == Path("2")


def test_refused_prefixes(tmp_path: Path):
    with pytest.raises(StoreError, match="expected a local path, gs://, s3:// or memory://, got http://"):
        open_store("http://x/y")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        probe(LocalStore(str(tmp_path / "file")))
