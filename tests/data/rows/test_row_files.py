import datetime
import decimal
import gzip
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin_sft.data.messages.examples import BadRow
from marin_sft.data.rows.row_files import count_rows, find_files, read_rows, write_rows, write_shard
from marin_sft.data.rows.source_rows import SourceFile
from marin_sft.data.rows.text_rows import json_rows
from marin_sft.errors import DataError
from tests.hub_server import Fault, HubServer

ROOT = Path(__file__).parents[3]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


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


def test_links_in_a_directory_of_rows(tmp_path, helpers):
    helpers.write_jsonl(tmp_path / "big/b.jsonl", [{"i": 1}])
    (tmp_path / "data").mkdir()
    (tmp_path / "data/tulu").symlink_to("../big")
    assert [f.name for f in find_files([f"{tmp_path}/data"])] == ["tulu/b.jsonl"]
    (tmp_path / "data/.#lock.jsonl").symlink_to("nobody@nowhere")
    (tmp_path / "data/notes").symlink_to("nowhere")
    assert [f.name for f in find_files([f"{tmp_path}/data"])] == ["tulu/b.jsonl"]
    (tmp_path / "data/gone.jsonl").symlink_to("nowhere")
    with pytest.raises(DataError, match="data/gone.jsonl is a broken link"):
        find_files([f"{tmp_path}/data"])


def test_what_is_not_passed_over_in_a_directory(tmp_path, helpers):
    helpers.write_jsonl(tmp_path / "A.JSONL", [{"i": 0}])
    (tmp_path / "B.Json.GZ").write_bytes(gzip.compress(b'[{"i": 1}]'))
    (tmp_path / "README.md").write_text("rows")
    assert [row.row for file in find_files([str(tmp_path)]) for row in read_rows(file)] == [{"i": 0}, {"i": 1}]
    for name in ("c.jsonl.xz", "c.parquet.gz", "c.csv.bz2"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            find_files([str(tmp_path)])
        (tmp_path / name).unlink()


def test_names_that_look_like_patterns(tmp_path, helpers):
    for name in ("rows[1].jsonl", "a::b.jsonl", "x*y.jsonl.gz", "lr=[1e-4]*::y/part.jsonl"):
        path = helpers.write_jsonl(tmp_path / name, [{"name": name}])
        (file,) = find_files([path])
        assert [row.row for row in read_rows(file)] == [{"name": name}] and count_rows(file) == 1
    assert [f.name for f in find_files([f"{tmp_path}/lr=[1e-4]*::y/**/*.jsonl"])] == ["part.jsonl"]
    (written,) = write_rows(f"{tmp_path}/out[1]*::z", [{"i": 0}])
    assert [f.path for f in find_files([f"{tmp_path}/out[1]*::z"])] == [written]
    with pytest.raises(DataError, match=r"no file matches .*did you mean .*rows\[1\].jsonl"):
        find_files([f"{tmp_path}/row[1].jsonl"])


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


@pytest.mark.parametrize(
    "text, rows",
    [
        ('{"i": 0}\n\n{"i": 1}', [(1, {"i": 0}), (3, {"i": 1})]),
        ('\ufeff{"i": 0}\n{oops\n', [(1, {"i": 0}), (2, "invalid_json")]),
        ('{"i": 0}', [(1, {"i": 0})]),
        ('{\n "messages": [],\n "i": 0\n}\n', [(1, {"messages": [], "i": 0})]),
        ('[{"i": NaN, "j": [Infinity, {"k": -Infinity}]}]', [(1, {"i": None, "j": [None, {"k": None}]})]),
        ('{"i": NaN}\n', [(1, {"i": None})]),
        ('{\n "i": 0\n}\n{\n "i": 1\n}\n', [(1, {"i": 0}), (4, {"i": 1})]),
        ('\n[\n{"i": 0},\n{"i": 1}]\n', [(1, {"i": 0}), (2, {"i": 1})]),
        (' { "data" : [\n{"i": 0} ] } ', [(1, {"i": 0})]),
        ('[{"i": "\\ud800"}, {"i": "\\ud83d\\ude00"}]', [(1, "invalid_unicode"), (2, {"i": "\U0001f600"})]),
        ('{"i": "\\ud800"}\n{"i": 0}', [(1, "invalid_unicode"), (2, {"i": 0})]),
        ("[]", []),
        ("", []),
    ],
)
def test_what_a_json_file_may_be(tmp_path, text, rows):
    (tmp_path / "x.json").write_text(text)
    (file,) = find_files([f"{tmp_path}/x.json"])
    assert [(r.line, reason_or_row(r)) for r in read_rows(file)] == rows and count_rows(file) == len(rows)


RAW_HALF = b"\xed\xa0\xbd"  # of a surrogate pair, as bytes: no UTF-8, but some programs write it


@pytest.mark.parametrize(
    "name, text", [("x.jsonl", b'{"i": 0}\n{"i": "%b"}\n'), ("x.json", b'[{"i": 0}, {"i": "%b"}]')]
)
def test_a_raw_half_of_a_surrogate_pair_drops_its_row(tmp_path, monkeypatch, name, text):
    (tmp_path / name).write_bytes(text % RAW_HALF)
    (file,) = find_files([f"{tmp_path}/{name}"])
    for chunk in (1 << 20, 1):
        monkeypatch.setattr("marin_sft.data.rows.text_rows._CHUNK", chunk)
        assert [reason_or_row(r) for r in read_rows(file)] == [{"i": 0}, "invalid_unicode"] and count_rows(file) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\ufeff",
        "\ufeff\n{}",
        '\ufeff{"i": 0}\n\n{}',
        " \t\r\n{}\r\n\x0b\x0c\n{}\n\n",
        "{}\n\u00a0\n{}",
        "{}\n\ufeff\n",
    ],
)
def test_json_lines_are_counted_as_they_are_read(tmp_path, text):
    (tmp_path / "x.jsonl").write_bytes(text.encode())
    (file,) = find_files([f"{tmp_path}/x.jsonl"])
    assert count_rows(file) == len(list(read_rows(file)))


def reason_or_row(source):
    return source.row.reason if isinstance(source.row, BadRow) else source.row


@pytest.mark.parametrize(
    "text, message",
    [
        ('{\n "i": 0\n}\n', "one JSON object, expected a list"),
        ('[{"i": 0}\n{"i": 1}]', "line 2: got '{', expected ']'"),
        ('[{"i": 0},\n{"i": 1', "line 2: not JSON"),
        ('[{"i": 0}, {"i": oops}]' + " " * 100, "line 1: not JSON"),
        ('[{"i": 0}]\n[{"i": 1}]', "line 2: got '\\[', expected 'the end'"),
        ('{"data": [{"i": 0}], "more": 1}', "got ',', expected '}'"),
        ("17", "expected a list of rows"),
        ("[" * 100_000, "nested too deep"),
        ('[{"i": "\udc80"}]', "can't decode byte 0x80"),
    ],
)
def test_what_it_may_not_be(tmp_path, text, message):
    (tmp_path / "x.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message) as raised:
        list(read_rows(find_files([f"{tmp_path}/x.json"])[0]))
    assert str(tmp_path / "x.json") in str(raised.value)


@given(values=st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3)), pretty=st.booleans())
def test_any_list_in_any_pieces(values, pretty):
    """Whatever the places where the text is cut."""
    text = json.dumps(values, indent=2 if pretty else None, ensure_ascii=pretty).encode(errors="replace")
    values = json.loads(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marin_sft.data.rows.text_rows._CHUNK", 7)
        assert [row for _, row in json_rows(io.BytesIO(text))] == values


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".jsonl.gz", ".jsonl.zst", ".json.zst"])
def test_long_rows_and_compression(tmp_path, suffix):
    rows = [{"text": "\u00e9" * 5_000_000}, {"text": "short"}]
    file = write_compressed(tmp_path / f"x{suffix}", "".join(json.dumps(row) + "\n" for row in rows).encode())
    assert count_rows(file) == 2 and [r.row for r in read_rows(file)] == rows


def write_compressed(path, data):
    import zstandard

    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(data))
    return find_files([str(path)])[0]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".csv.gz", ".json.zst", ".parquet", ".arrow"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_cut_files(tmp_path, suffix, keep):
    rows = [{"i": i, "text": hashlib.sha256(str(i).encode()).hexdigest()} for i in range(1000)]
    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".arrow":
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
        path.write_bytes((tmp_path / "saved/data-00000-of-00001.arrow").read_bytes())
    else:
        lines = "i,text\n" + "".join(f"{r['i']},{r['text']}\n" for r in rows) if "csv" in suffix else None
        write_compressed(path, (lines or "".join(json.dumps(row) + "\n" for row in rows)).encode())
    file = find_files([str(path)])[0]
    assert count_rows(file) == len(list(read_rows(file))) == 1000
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    for read in (count_rows, lambda file: list(read_rows(file))):
        with pytest.raises(DataError, match="x.*cannot be read to its end"):
            read(file)


def test_csv(tmp_path):
    text = 'a,b\n1,"two\nlines, and ""quotes"""\n\n x ,\n1,2,3\n"1"2,3\n4,\udc80\n5,6\n'
    (tmp_path / "x.csv").write_bytes(text.encode(errors="surrogateescape"))
    (tmp_path / "x.tsv").write_text('a\tb\n1\t"2"\n')
    csv_file, tsv_file = find_files([str(tmp_path)])
    assert [(r.line, reason_or_row(r)) for r in read_rows(csv_file)] == [
        (2, {"a": "1", "b": 'two\nlines, and "quotes"'}),
        (5, {"a": " x ", "b": ""}),
        (6, "invalid_csv"),
        (7, "invalid_csv"),
        (8, "invalid_utf8"),
        (9, {"a": "5", "b": "6"}),
    ]
    assert count_rows(csv_file) == 6 and [r.row for r in read_rows(tsv_file)] == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    "text, message",
    [('a,b\n1,"2\n3,4\n', "line 2.*never closed"), ("a,a\n1,2\n", "each name once"), ('a,"b\n', "no header")],
)
def test_no_csv(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=f"x.csv: .*{message}"):
        list(read_rows(find_files([str(tmp_path)])[0]))


def test_long_csv_field(tmp_path):
    (tmp_path / "x.csv").write_text("a\n" + "z" * 10_000_000)
    assert [len(r.row["a"]) for r in read_rows(find_files([str(tmp_path)])[0])] == [10_000_000]


CHATS = [{"messages": [{"role": "user", "content": f"q{i}", "name": None}], "tools": None} for i in range(1000)]


def write_table(path, table, kind):
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=300)
    else:
        options = {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}[kind]
        with options(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=170)
    return find_files([str(path)])[0]


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_tables(tmp_path, kind):
    suffix = "parquet" if kind == "parquet" else "arrow"
    file = write_table(tmp_path / f"x.{suffix}", pa.Table.from_pylist(CHATS), kind)
    assert count_rows(file) == 1000
    assert [(r.line, r.row) for r in read_rows(file)] == list(enumerate(CHATS, 1))
    for start, stop in [(0, 1), (299, 301), (340, 340), (599, 950), (999, 2000), (1000, None), (170, 340)]:
        assert [r.row for r in read_rows(file, start, stop)] == CHATS[start:stop]
        assert [r.line for r in read_rows(file, start, stop)] == list(range(start + 1, min(stop or 1000, 1000) + 1))
    empty = write_table(tmp_path / f"y.{suffix}", pa.Table.from_pylist(CHATS)[:0], kind)
    assert count_rows(empty) == 0 and list(read_rows(empty)) == []


@pytest.mark.parametrize("kind", ["parquet", "stream"])
def test_values_of_tables(tmp_path, kind):
    utc = datetime.UTC
    columns = {
        "map": pa.array([[("a", 1), ("b", None)], None], pa.map_(pa.string(), pa.int64())),
        "deep": pa.array([[{"t": [datetime.date(2024, 1, 2)]}], []], pa.list_(pa.struct({"t": pa.list_(pa.date32())}))),
        "decimal": pa.array([decimal.Decimal("1.10"), None]),
        "time": pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=utc), None]),
        "duration": pa.array([datetime.timedelta(seconds=90), None]),
        "bytes": pa.array([b"\xff", None]),
        "float": pa.array([float("nan"), 0.5]),
        "category": pa.array(["a", "b"]).dictionary_encode(),
    }
    file = write_table(tmp_path / f"x.{'parquet' if kind == 'parquet' else 'arrow'}", pa.table(columns), kind)
    first, second = (r.row for r in read_rows(file))
    assert first == {
        "map": {"a": 1, "b": None},
        "deep": [{"t": ["2024-01-02"]}],
        "decimal": "1.10",
        "time": "2024-01-02T03:04:05+00:00",
        "duration": 90.0,
        "bytes": {"base64": "/w=="},
        "float": None,
        "category": "a",
    }
    missing = dict.fromkeys(columns) | {"deep": [], "float": 0.5, "category": "b"}
    assert second == missing and json.loads(json.dumps([first, second], allow_nan=False)) == [first, second]


def test_a_table_with_broken_text(tmp_path):
    values = pa.array([b"good", b"\xff", b"fine"])
    broken = pa.StringArray.from_buffers(3, values.buffers()[1], values.buffers()[2])
    file = write_table(tmp_path / "x.arrow", pa.table({"text": broken}), "stream")
    assert [reason_or_row(r) for r in read_rows(file)] == [{"text": "good"}, "invalid_utf8", {"text": "fine"}]


def test_no_table(tmp_path):
    for name in ("x.parquet", "x.arrow"):
        (tmp_path / name).write_text('{"i": 1}\n' * 10)
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            count_rows(find_files([f"{tmp_path}/{name}"])[0])
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(DataError, match="each name once"):
        list(read_rows(write_table(tmp_path / "y.arrow", twice, "stream")))


DAMAGED = """
import collections, io, json, random, sys
import pyarrow as pa, pyarrow.ipc
import pyarrow.parquet as pq
from marin_sft.data.rows.row_files import count_rows, read_rows
from marin_sft.data.rows.source_rows import SourceFile
from marin_sft.errors import DataError

rows = [{"messages": [{"role": "user", "content": f"hi {i} é" * (i % 7)}], "n": i, "f": 0.5} for i in range(300)]
table = pa.Table.from_pylist(rows)
lines = "".join(json.dumps(row) + "\\n" for row in rows).encode()

def written(kind):
    out = io.BytesIO()
    if kind == "x.parquet":
        pq.write_table(table, out, row_group_size=64)
    else:
        with {"x.arrow": pa.ipc.new_stream, "file.arrow": pa.ipc.new_file}[kind](out, table.schema) as writer:
            writer.write_table(table, 64)
    return out.getvalue()

def damaged(dice, data):
    data = bytearray(data)
    if dice.random() < 0.2:
        return data[: dice.randint(0, len(data))]
    for _ in range(dice.choice([1, 2, 5, 30])):
        near_the_end = len(data) - 1 - dice.randrange(min(400, len(data)))
        data[dice.choice([dice.randrange(len(data)), near_the_end])] = dice.randrange(256)
    return data

outcomes = collections.Counter()
for kind, size in {"x.arrow": 150, "file.arrow": 250, "x.parquet": 40}.items():
    whole = written(kind)
    for number in range(size):
        path = f"{sys.argv[1]}/{kind}"
        open(path, "wb").write(damaged(random.Random(f"{kind} {number}"), whole))
        for read in (count_rows, lambda file: list(read_rows(file))):
            try:
                read(SourceFile(path, kind))
                outcomes["read"] += 1
            except DataError as error:
                assert path in str(error), error
                outcomes["refused"] += 1
assert min(outcomes["read"], outcomes["refused"]) > 50, outcomes
"""


def test_hundreds_of_damaged_tables(tmp_path):
    """In a process of its own: what pyarrow follows out of memory ends it."""
    done = subprocess.run([sys.executable, "-c", DAMAGED, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_damaged_batch_is_named(tmp_path):
    # The offsets go up and down again, which costs a look at each of them to see.
    offsets = pa.array([0, 1 << 20, 4], pa.int32()).buffers()[1]
    text = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"good"))
    file = write_table(tmp_path / "x.arrow", pa.table({"text": text}), "stream")
    with pytest.raises(DataError, match="x.arrow: cannot be read to its end .batch 1, column 'text': "):
        list(read_rows(file))


def test_from_the_web_and_other_file_systems(tmp_path):
    import fsspec

    rows = [{"i": i} for i in range(1000)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with HubServer() as hub:
        files = {"x.jsonl": lines, "x.jsonl.gz": gzip.compress(lines), "x.parquet": parquet_bytes(rows)}
        hub.add_dataset("org/rows", files)
        for name in files:
            (file,) = find_files([f"{hub.url}/datasets/org/rows/resolve/main/{name}?download=true"])
            assert file.name == name and count_rows(file) == 1000
            assert [r.row for r in read_rows(file, 10, 20)] == rows[10:20]
        with hub.failing(Fault(cut_after=1000), lambda request: request.method == "GET", times=9):
            with pytest.raises(DataError, match="cannot be read to its end"):
                list(read_rows(find_files([f"{hub.url}/datasets/org/rows/resolve/main/x.jsonl"])[0]))
        with pytest.raises(DataError, match="none.jsonl"):
            count_rows(find_files([f"{hub.url}/datasets/org/rows/resolve/main/none.jsonl"])[0])
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/rows/{name}": data for name, data in files.items()})
    try:
        for file in find_files(["memory://rows/*"]):
            assert [r.row for r in read_rows(file)] == rows
    finally:
        memory.rm("/rows", recursive=True)


def parquet_bytes(rows):
    pq.write_table(pa.Table.from_pylist(rows), buffer := io.BytesIO())
    return buffer.getvalue()


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


def test_bytes_are_text_where_they_are_utf8(tmp_path):
    table = pa.table({"q": pa.array(["what is 2+2? \u00e9".encode(), b"\xff\xfe"], pa.binary())})
    pq.write_table(table, tmp_path / "x.parquet")
    rows = [row.row for row in read_rows(SourceFile(f"{tmp_path}/x.parquet", "x.parquet"))]
    assert rows == [{"q": "what is 2+2? \u00e9"}, {"q": {"base64": "//4="}}]


def test_files_of_a_directory_that_are_passed_over_are_named(tmp_path, capsys):
    for name in ("a.jsonl", "b.jsonlines", "c.txt", "README.md", "LICENSE", "dataset_infos.json", ".hidden"):
        (tmp_path / name).write_text('{"text": "x"}\n')
    (tmp_path / "dataset_infos.json").unlink()
    assert [file.name for file in find_files([str(tmp_path)])] == ["a.jsonl"]
    assert f"warning: {tmp_path}: skipped b.jsonlines, c.txt; expected .jsonl, " in capsys.readouterr().err


@pytest.mark.parametrize("name, text", [("x.jsonl", '{"text": "x"}\n'), ("x.csv", "text\nx\n"), ("x.json", "[]")])
def test_utf16_is_told_by_name(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-16")
    with pytest.raises(DataError, match=f"{name}: got UTF-16, expected UTF-8: save it again"):
        list(read_rows(SourceFile(f"{tmp_path}/{name}", name)))


def test_a_header_that_is_no_utf8(tmp_path):
    (tmp_path / "x.csv").write_bytes("text,r\u00e9ponse\nx,y\n".encode("latin-1"))
    with pytest.raises(DataError, match="x.csv: line 1: the header is not UTF-8"):
        list(read_rows(SourceFile(f"{tmp_path}/x.csv", "x.csv")))
