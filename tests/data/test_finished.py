import os

import pytest

from marin_sft.data.finished import taken_over, versions_of, write_finished
from marin_sft.data.rows.source_rows import SourceFile, Span


def finish(attempt, given="rows 0 to 9"):
    os.makedirs(f"{attempt}/train/shard/c")
    for name, text in (("a", "first"), ("c/b", "second")):
        with open(f"{attempt}/train/shard/{name}", "w") as file:
            file.write(text)
    write_finished(str(attempt), "train/shard", given, ["train/shard/a", "train/shard/c/b"], {"rows": 9})


def files_in(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_the_newest_attempt_that_has_it(tmp_path):
    for attempt in "123":
        (tmp_path / attempt).mkdir()
    finish(tmp_path / "1")
    earlier = [f"{tmp_path}/2", f"{tmp_path}/1"]
    assert taken_over(f"{tmp_path}/3", earlier, "train/shard", "rows 0 to 9") == {"rows": 9}
    assert files_in(tmp_path / "3") == ["train/shard/a", "train/shard/c/b"]
    assert (tmp_path / "3/train/shard/c/b").read_text() == "second"
    (tmp_path / "1/train/shard/a").write_text("another")  # by a task that still runs
    assert (tmp_path / "3/train/shard/a").read_text() == "first"


@pytest.mark.parametrize("harm", ["given", "file", "cut", "gone", "record"])
def test_what_is_not_taken_over(tmp_path, harm):
    finish(tmp_path / "1", "other rows" if harm == "given" else "rows 0 to 9")
    shard = tmp_path / "1/train/shard"
    if harm == "file":
        (shard / "c/b").write_text("SECOND")
    elif harm == "cut":
        (shard / "c/b").write_text("")
    elif harm == "gone":
        (shard / "c/b").unlink()
    elif harm == "record":
        (tmp_path / "1/.finished/train/shard.json").write_text('{"given"')
    (tmp_path / "2").mkdir()
    assert taken_over(f"{tmp_path}/2", [f"{tmp_path}/1"], "train/shard", "rows 0 to 9") is None
    assert files_in(tmp_path / "2") == []


def test_in_an_object_store(gcs_bucket):
    from marin_sft.paths import file_system

    filesystem, base = file_system(gcs_bucket)
    filesystem.pipe_file(f"{base}/1/train/a", b"first")
    write_finished(f"{gcs_bucket}/1", "train/shard", [1], ["train/a"], {"rows": 9})
    assert taken_over(f"{gcs_bucket}/2", [f"{gcs_bucket}/1"], "train/shard", [1]) == {"rows": 9}
    assert filesystem.cat_file(f"{base}/2/train/a") == b"first"


def test_a_file_that_changed_is_another(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("1\n2\n")
    span = Span(SourceFile(str(path), "x.jsonl"), 0, 2)
    before = versions_of([span])
    assert versions_of([span]) == before
    path.write_text("3\n4\n")
    os.utime(path, ns=(1, 1))
    assert versions_of([span]) != before
