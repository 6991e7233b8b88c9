import datetime
import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin_sft import progress
from marin_sft.data import transform as module
from marin_sft.data.adapters import FormatAdapter, InputDatasetFormat, PreferenceTransformAdapter, TransformAdapter
from marin_sft.data.rows.row_files import find_files
from marin_sft.data.transform import TransformConfig, transform
from marin_sft.errors import ConfigError, DataError

MESSAGES = TransformAdapter(InputDatasetFormat.SINGLE_COLUMN_MULTI_TURN)


def numbered(count, start=0):
    """Raw rows, all different."""
    return [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}], "n": i}
        for i in range(start, start + count)
    ]


def read(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def run(tmp_path, directory="raw", out="out", **options):
    options = {"adapter": MESSAGES, **options}
    transform(TransformConfig(str(tmp_path / directory), "org/name", output_path=str(tmp_path / out), **options))
    return tmp_path / out


def files_of(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_SHARD", 10)
    monkeypatch.setattr(module, "SHARDS_PER_TASK", 2)


def test_rows_in_order(tmp_path, helpers, small_shards):
    rows = numbered(33)
    rows[12] = {"messages": []}
    helpers.write_jsonl(tmp_path / "raw/train.jsonl.gz", rows)
    helpers.write_jsonl(tmp_path / "raw/test.jsonl", numbered(3))
    heard = []
    with progress.listening(heard.append):
        out = run(tmp_path, metadata_columns=("n", "absent"))
    shards = [f"train/shard_{i:05d}.jsonl.gz" for i in range(4)]
    assert files_of(out) == ["dropped.jsonl", "metrics.json", "stats.json", *shards]
    found = [row for shard in shards for row in read(out / shard)]
    assert [row["metadata"] for row in found] == [{"n": i, "absent": None} for i in range(33) if i != 12]
    assert list(found[0]) == ["id", "source", "messages", "metadata"]
    assert found[0]["source"] == "org/name" and found[0]["messages"] == rows[0]["messages"]
    assert len({row["id"] for row in found}) == 32
    assert [len(read(out / shard)) for shard in shards] == [10, 9, 10, 3]
    stats = json.loads((out / "stats.json").read_text())
    assert stats == {"train": {"rows": 33, "written": 32, "dropped": {"empty_dialogue": 1}}}
    assert json.loads((out / "metrics.json").read_text()) == {"rows": 33, "written": 32, "dropped": 1}
    (dropped,) = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert (dropped["file"], dropped["line"], dropped["reason"]) == ("train.jsonl.gz", 13, "empty_dialogue")
    assert (heard[0].done, heard[0].total) == (0, 33) and heard[-1].done == heard[-1].total == 33
    assert [file.name for file in find_files([f"{out}/**/*.jsonl.gz"])] == shards


def test_bytes_depend_on_rows_only(tmp_path, helpers, small_shards):
    rows = numbered(47)
    helpers.write_jsonl(tmp_path / "one/train.jsonl", rows)
    for i, (start, stop) in enumerate([(0, 1), (1, 25), (25, 25), (25, 47)]):
        helpers.write_jsonl(tmp_path / f"many/data/train-{i:05d}-of-00004.jsonl.gz", rows[start:stop])
    one, many = run(tmp_path, "one", "a"), run(tmp_path, "many", "b/c")
    assert files_of(one) == files_of(many) and helpers.tree_hash(one) == helpers.tree_hash(many)


def test_subsets_splits_and_slices(tmp_path, helpers, small_shards):
    card = "---\nconfigs:\n"
    for subset in ("default", "more"):
        card += f"- config_name: {subset}\n  data_files:\n"
        for split in ("train", "test"):
            card += f"  - split: {split}\n    path: {subset}_{split}.jsonl\n"
            helpers.write_jsonl(tmp_path / f"raw/{subset}_{split}.jsonl", numbered(20, start=100 * len(subset + split)))
    (tmp_path / "raw/README.md").write_text(card + "---\n")
    out = run(tmp_path, out="default", splits=())
    assert [f for f in files_of(out) if f.endswith(".gz")] == [
        *(f"test/shard_{i:05d}.jsonl.gz" for i in range(2)),
        *(f"train/shard_{i:05d}.jsonl.gz" for i in range(2)),
    ]
    slices = ("train[:25%]", "train[75%:]+test[:1]")
    out = run(tmp_path, out="slices", subsets=("default", "more"), splits=slices, metadata_columns=("n",))
    folders = ["train_to25pct", "train_75pctto_and_test_to1"]
    counts = {name: stats["rows"] for name, stats in json.loads((out / "stats.json").read_text()).items()}
    assert counts == {**dict(zip(folders, (5, 6), strict=True)), f"more/{folders[0]}": 5, f"more/{folders[1]}": 6}
    last = read(out / "more" / folders[1] / "shard_00000.jsonl.gz")
    assert [row["metadata"]["n"] for row in last] == [*range(915, 920), 800]


def test_too_many_bad_rows(tmp_path, helpers):
    helpers.write_jsonl(tmp_path / "raw/train.jsonl", [*numbered(9), {"messages": None}])
    with pytest.raises(DataError, match="org/name train: 1 of 10 rows dropped .missing_value: 1.*at most 5.0%"):
        run(tmp_path)
    out = run(tmp_path, max_dropped=0.1)
    assert len(read(out / "train/shard_00000.jsonl.gz")) == 9


def test_no_row_is_left(tmp_path, helpers):
    helpers.write_jsonl(tmp_path / "raw/train.jsonl", [{"text": "x"}])
    with pytest.raises(DataError, match="1 of 1 rows dropped .missing_column: 1"):
        run(tmp_path, max_dropped=1.0)


def test_unknown_split(tmp_path, helpers):
    helpers.write_jsonl(tmp_path / "raw/train.jsonl", numbered(2))
    with pytest.raises(DataError, match="validation"):
        run(tmp_path, splits=("validation",))


def test_pairs(tmp_path, helpers):
    user, good, bad = (
        {"role": role, "content": c} for role, c in (("user", "q"), ("assistant", "a"), ("assistant", "b"))
    )
    helpers.write_jsonl(tmp_path / "raw/train.jsonl", [{"chosen": [user, good], "rejected": [user, bad], "score": 1}])
    out = run(tmp_path, adapter=PreferenceTransformAdapter(), metadata_columns=("score",))
    (row,) = read(out / "train/shard_00000.jsonl.gz")
    assert {key: row[key] for key in row if key != "id"} == {
        "source": "org/name",
        "prompt": [user],
        "chosen": [good],
        "rejected": [bad],
        "metadata": {"score": 1},
    }


def test_one_row_that_makes_several(tmp_path, helpers):
    answers = [{"answer": text, "rank": rank} for rank, text in enumerate("abc")]
    helpers.write_jsonl(tmp_path / "raw/train.jsonl", [{"prompt": "q", "answers": answers}])
    out = run(tmp_path, adapter=FormatAdapter())
    assert [row["rejected"] for row in read(out / "train/shard_00000.jsonl.gz")] == ["b", "c"]
    assert json.loads((out / "stats.json").read_text())["train"] == {"rows": 1, "written": 2, "dropped": {}}


def test_columns_of_tables_are_kept(tmp_path):
    (tmp_path / "raw").mkdir()
    when = datetime.datetime(2023, 4, 9, 0, 2, 53, tzinfo=datetime.UTC)
    values = {"when": when, "score": float("nan"), "deep": [{"x": 1, "y": None}]}
    pq.write_table(pa.Table.from_pylist([{**numbered(1)[0], **values}]), tmp_path / "raw/train.parquet")
    out = run(tmp_path, metadata_columns=tuple(values))
    (row,) = read(out / "train/shard_00000.jsonl.gz")
    assert row["metadata"] == {"when": "2023-04-09T00:02:53+00:00", "score": None, "deep": [{"x": 1, "y": None}]}


def test_half_a_surrogate_is_one_bad_row(tmp_path, helpers):
    helpers.write_jsonl(tmp_path / "raw/train.jsonl", [*numbered(3), {**numbered(1)[0], "n": "\ud800"}])
    out = run(tmp_path, metadata_columns=("n",), max_dropped=0.5)
    assert json.loads((out / "stats.json").read_text())["train"]["dropped"] == {"invalid_unicode": 1}
    assert json.loads((out / "dropped.jsonl").read_text())["line"] == 4


def test_memory_does_not_grow_with_the_rows(tmp_path, helpers):
    """Of 1 kB each."""
    peaks = []
    for count in (500, 5000):
        rows = [{**row, "ballast": "x" * 1000} for row in numbered(count)]
        helpers.write_jsonl(tmp_path / f"{count}/train.jsonl", rows)
        del rows
        run(tmp_path, str(count), "warm")
        tracemalloc.start()
        run(tmp_path, str(count), f"out{count}", metadata_columns=("ballast",))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 300_000, peaks


def test_config_errors():
    with pytest.raises(ConfigError, match="splits is one string"):
        TransformConfig("x", "org/name", splits="train")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_dropped=5"):
        TransformConfig("x", "org/name", max_dropped=5)


def test_goes_on_from_the_parts_of_an_earlier_attempt(tmp_path, helpers, small_shards, capsys):
    rows = [*numbered(45), {"messages": []}]
    helpers.write_jsonl(tmp_path / "raw/train.jsonl.gz", rows)
    whole = helpers.tree_hash(run(tmp_path, out="undisturbed"))
    with pytest.raises(DataError, match="1 of 46 rows dropped"):
        run(tmp_path, out="1", max_dropped=0)
    (tmp_path / "1/train/shard_00002.jsonl.gz").unlink()
    capsys.readouterr()
    out = run(tmp_path, out="2", earlier_attempts=(f"{tmp_path}/1",))
    assert helpers.tree_hash(out) == whole
    assert "train: 2 of 3 parts are from an earlier attempt" in capsys.readouterr().err
