import hashlib
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from marin_sft.errors import StoreError
from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.stores import open_store, probe
from tests.gcs_server import Fault


@pytest.fixture
def store(prefix):
    store = open_store(prefix)
    yield store
    store.remove(store.path(""))
    assert store.names(store.path("")) == []


def test_create_exclusive_keeps_the_first(store):
    path = store.path("a/b.json")
    assert store.create_exclusive(path, b"1") and not store.create_exclusive(path, b"2")
    assert not store.create_exclusive(path, b"1"), "equal bytes are no sign of having written them"
    assert store.read(path) == b"1"
    assert store.names(store.path("a")) == ["b.json"]


def test_create_exclusive_over_an_object_of_another_kind(store):
    store.replace(store.path("plain"), b"1")
    assert not store.create_exclusive(store.path("plain"), b"1")
    store.remove(store.path("plain"))
    assert store.create_exclusive(store.path("plain"), b"2")


def test_nothing_there(store):
    assert store.read(store.path("x")) is None
    assert store.names(store.path("x")) == []
    assert store.files(store.path("x")) == []
    store.remove(store.path("x"))


def test_names_are_those_of_children(store):
    for name in ("a/1/x", "a/1/y", "a/12/x", "a/b", "ab/c"):
        store.create_exclusive(store.path(name), b"")
    assert store.names(store.path("a")) == ["1", "12", "b"]
    assert store.names(store.path("a/1")) == ["x", "y"]
    assert store.names(store.path("a/b")) == [], "an object has no children"
    assert store.names(store.path("")) == ["a", "ab"]


def test_replace_remove_and_probe(store):
    probe(store)
    store.replace(store.path("beat"), b"1")
    store.replace(store.path("beat"), b"2")
    assert store.read(store.path("beat")) == b"2"
    store.remove(store.path("beat"))
    assert store.read(store.path("beat")) is None


def test_remove_takes_a_tree_and_nothing_beside_it(store):
    for name in ("3/a", "3/b/c", "30/a", "3[0]/a"):
        store.create_exclusive(store.path(name), b"1")
    store.remove(store.path("3[0]"))
    assert store.names(store.path("")) == ["3", "30"]
    store.remove(store.path("3"))
    assert store.names(store.path("")) == ["30"]


def test_files_leave_out_our_own(store):
    for name in ("3/b.txt", "3/a/.inner", "3/.record.json", "3/.hidden/x", "30/other"):
        store.create_exclusive(store.path(name), b"12")
    files = store.files(store.path("3"))
    assert [(file.path, file.size) for file in files] == [("a/.inner", 2), ("b.txt", 2)]
    assert files[0].digest == files[1].digest is not None
    store.replace(store.path("3/b.txt"), b"34")
    again = store.files(store.path("3"))
    assert again[0] == files[0] and again[1].digest != files[1].digest


@pytest.mark.parametrize("prefix", ["s3", "gcs"], indirect=True)
def test_markers_of_directories_are_no_files(store):
    """Browsers of buckets and some libraries put empty objects where a directory would be."""
    for name in ("3/", "3/empty/", "3/full/", "3/full/x"):
        store.replace(store.path(name), b"")
    assert [file.path for file in store.files(store.path("3"))] == ["full/x"]
    assert store.names(store.path("3")) == ["empty", "full"]
    assert store.names(store.path("3/empty")) == []


def test_listings_show_what_others_wrote(store, prefix, tmp_path):
    """Also after this process listed: no listing is kept."""
    other = prefix if "://" in prefix else f"file://{prefix}"
    store.create_exclusive(store.path("claims/1"), b"")
    assert store.names(store.path("claims")) == ["1"] and len(store.files(store.path("claims"))) == 1
    filesystem, root = fsspec.url_to_fs(other)
    filesystem.pipe_file(f"{root}/claims/2", b"2")
    assert store.names(store.path("claims")) == ["1", "2"]
    assert [file.path for file in store.files(store.path("claims"))] == ["1", "2"]
    filesystem.rm_file(f"{root}/claims/1")
    assert store.names(store.path("claims")) == ["2"]


@pytest.mark.parametrize("prefix", ["gcs"], indirect=True)
def test_long_listings(store):
    """More than a page: clients ask for the rest."""
    names = sorted(f"{number:05}" for number in range(1100))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.replace(store.path(f"many/{name}"), name.encode()), names))
    assert store.names(store.path("many")) == names
    assert [file.path for file in store.files(store.path("many"))] == names


def test_one_winner_of_many_threads(store):
    wins = []
    barrier = threading.Barrier(8)

    def race(number: int) -> None:
        for i in range(50):
            barrier.wait()
            if store.create_exclusive(store.path(f"claims/{i}"), b"the same bytes"):
                wins.append(i)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == list(range(50))


_CLAIM_ALL = """
import json, sys
from marin_sft.execution.stores import open_store
store = open_store(sys.argv[1])
print(flush=True)  # ready
sys.stdin.readline()
print(json.dumps([i for i in range(100) if store.create_exclusive(store.path(f"claims/{i}"), sys.argv[2].encode())]))
"""


@pytest.mark.parametrize("prefix", ["local", "s3", "gcs"], indirect=True)
def test_one_winner_of_many_processes(store, prefix):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([sys.executable, "-c", _CLAIM_ALL, prefix, str(n)], **pipes) for n in range(3)]
    for racer in racers:
        racer.stdout.readline()
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    wins = [json.loads(racer.communicate()[0]) for racer in racers]
    assert sorted(sum(wins, [])) == list(range(100))
    for number, won in enumerate(wins):
        assert all(store.read(store.path(f"claims/{i}")) == b"%d" % number for i in won)
    assert len(store.names(store.path("claims"))) == 100, "seen by a process that wrote none of them"


def _creates(name):
    return lambda request: request.method == "POST" and (request.name or "").endswith(name)


@pytest.mark.parametrize("prefix", ["gcs"], indirect=True)
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.DROPPED, Fault.REFUSED])
def test_a_lost_answer_on_gcs_is_not_a_lost_race(store, gcs, fault):
    path = store.path("claims/1")
    before = len(gcs.requests)
    with gcs.failing(fault, _creates("claims/1")) as hit:
        assert store.create_exclusive(path, b"mine")
    assert len(hit) == 1
    posts = [request for request in gcs.requests[before:] if request.method == "POST"]
    assert len(posts) == 2, "the client repeated the request"
    assert store.read(path) == b"mine"
    assert not store.create_exclusive(path, b"mine")


@pytest.mark.parametrize("prefix", ["gcs"], indirect=True)
def test_a_race_lost_between_two_answers(store, gcs):
    """The first request is not carried out, another writer puts the same bytes there, then it is repeated."""

    def another_was_faster(request):
        if not _creates("claims/1")(request):
            return False
        gcs.put("bucket", request.name, b"equal")
        return True

    with gcs.failing(Fault.REFUSED, another_was_faster) as hit:
        assert not store.create_exclusive(store.path("claims/1"), b"equal")
    assert len(hit) == 1


@pytest.mark.parametrize("prefix", ["s3"], indirect=True)
@pytest.mark.parametrize("fault", ["lost", "conflict"])
def test_a_lost_answer_on_s3_is_not_a_lost_race(store, s3, fault):
    s3.faults = [fault, fault]  # for "lost": the refusal of the repeated request gets lost, too
    assert store.create_exclusive(store.path("claims/1"), b"mine")
    assert s3.faults == []
    s3.faults = ["vague"]
    assert not store.create_exclusive(store.path("claims/1"), b"mine")
    assert s3.faults == []


def test_checksums_are_those_of_the_bytes(gcs, s3, tmp_path):
    import base64

    import google_crc32c

    for prefix, expected in (
        ("gs://bucket/sums", base64.b64encode(google_crc32c.Checksum(b"bytes").digest()).decode()),
        ("s3://bucket/sums", hashlib.md5(b"bytes").hexdigest()),
        (str(tmp_path), hashlib.sha256(b"bytes").hexdigest()),
    ):
        store = open_store(prefix)
        store.replace(store.path("1/x"), b"bytes")
        assert [file.digest for file in store.files(store.path("1"))] == [expected]


def test_latest_link(tmp_path: Path):
    store = LocalStore(str(tmp_path))
    store.point_latest(str(tmp_path), "1")
    store.point_latest(str(tmp_path), "2")
    assert (tmp_path / "latest").readlink() == Path("2")


def test_refused_prefixes(tmp_path: Path, gcs, s3):
    with pytest.raises(StoreError, match="expected a local path, gs://, s3:// or memory://, got http://"):
        open_store("http://x/y")
    with pytest.raises(StoreError, match="prefix '': expected a path or a URL, got an empty one"):
        open_store("")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        probe(LocalStore(str(tmp_path / "file")))
    for prefix in ("gs://no-such-bucket/x", "s3://no-such-bucket/x"):
        with pytest.raises(StoreError, match=f"prefix {prefix}: cannot be written"):
            probe(open_store(prefix))


@pytest.mark.parametrize("prefix", ["gcs"], indirect=True)
def test_errors_of_clients_are_os_errors(store, gcs):
    with gcs.failing(Fault.UNAUTHORIZED, lambda request: True, times=100):
        for call in (store.read, store.names, store.files, lambda path: store.replace(path, b"")):
            with pytest.raises(OSError, match="HttpError: who are you"):
                call(store.path("x"))
        with pytest.raises(StoreError, match="cannot be written: .*who are you"):
            probe(store)
