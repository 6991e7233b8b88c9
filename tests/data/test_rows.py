import gzip
import json

import pytest

from marin_sft.data.messages import BadRow
from marin_sft.data.rows import count_rows, find_files, read_rows, write_rows, write_shard
from marin_sft.errors import DataError


def test_find_files(tmp_path, helpers):
    for name in ("b/2.jsonl.gz", "b/1.jsonl", "a/x.json", ".record.json", "b/.hidden/h.jsonl"):
        helpers.write_jsonl(tmp_path / name, [])
    (tmp_path / "b/notes.txt").write_text("")
    assert [f.name for f in find_files([f"{tmp_path}/**/*.jsonl*"])] == ["b/1.jsonl", "b/2.jsonl.gz"]
    assert [f.name for f in find_files([str(tmp_path)])] == ["a/x.json", "b/1.jsonl", "b/2.jsonl.gz"]
    one = f"{tmp_path}/b/1.jsonl"
    assert [(f.path, f.name) for f in find_files([one, one])] == [(one, "1.jsonl")]
    with pytest.raises(DataError, match="no file matches"):
        find_files([f"{tmp_path}/*.jsonl"])
    with pytest.raises(DataError, match="notes.txt"):
        find_files([f"{tmp_path}/b/*"])


def test_lines_and_ranges(tmp_path, helpers):
    path = helpers.write_jsonl(tmp_path / "x.jsonl.gz", [{"i": 0}, "", {"i": 1}, "{oops", {"i": 3}])
    (file,) = find_files([path])
    assert count_rows(file) == 4
    rows = list(read_rows(file))
    assert [(r.line, r.row) for r in rows if not isinstance(r.row, BadRow)] == [
        (1, {"i": 0}),
        (3, {"i": 1}),
        (5, {"i": 3}),
    ]
    assert rows[2].line == 4 and rows[2].row.reason == "invalid_json"
    assert [r.row for r in read_rows(file, 1, 2)] == [{"i": 1}]


@pytest.mark.parametrize("value", [[{"i": 0}, {"i": 1}], {"data": [{"i": 0}, {"i": 1}]}])
def test_json_list(tmp_path, value):
    (tmp_path / "x.json").write_text(json.dumps(value))
    (file,) = find_files([f"{tmp_path}/x.json"])
    assert count_rows(file) == 2
    assert [(r.line, r.row) for r in read_rows(file)] == [(1, {"i": 0}), (2, {"i": 1})]


@pytest.mark.parametrize("text, message", [("{}", "expected a list of rows"), ('{"i": 0}\n{"i": 1}', "one JSON list")])
def test_no_json_list(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=message):
        count_rows(find_files([f"{tmp_path}/x.json"])[0])


def test_cut_file(tmp_path):
    whole = gzip.compress(b'{"i": 1}\n' * 1000)
    (tmp_path / "x.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read to its end"):
        count_rows(find_files([str(tmp_path)])[0])


def test_write_shard_is_deterministic(tmp_path):
    rows = [{"b": "\u00e9\n", "a": 1}, {"c": None}]
    paths = [write_shard(f"{tmp_path}/{name}", 3, rows) for name in "xy"]
    assert paths[0].endswith("x/shard_00003.jsonl.gz")
    first, second = (open(path, "rb").read() for path in paths)
    assert first == second
    assert [r.row for r in read_rows(find_files(paths)[0])] == rows


def test_write_rows(tmp_path):
    rows = [{"i": i} for i in range(7)]
    paths = write_rows(f"{tmp_path}/out", iter(rows), rows_per_shard=3)
    assert [p.split("/")[-1] for p in paths] == [f"shard_0000{i}.jsonl.gz" for i in range(3)]
    assert [r.row for f in find_files([f"{tmp_path}/out"]) for r in read_rows(f)] == rows
    assert [count_rows(f) for f in find_files(write_rows(f"{tmp_path}/none", []))] == [0]
