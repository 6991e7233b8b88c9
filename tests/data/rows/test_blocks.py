import csv
import dataclasses
import gzip
import io
import json
import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin_sft.data.rows.blocks import count_files, count_of, cut, rows_of
from marin_sft.data.rows.row_files import read_rows
from marin_sft.data.rows.source_rows import SourceFile, Span
from marin_sft.errors import DataError

A, B, C = (SourceFile(name, name) for name in "abc")


def test_cut():
    assert cut([Span(A, 4, 7), Span(B, 2, 2), Span(C, 1, 9)], 5) == [
        (Span(A, 4, 7), Span(C, 1, 3)),
        (Span(C, 3, 8),),
        (Span(C, 8, 9),),
    ]
    assert cut([], 5) == cut([Span(A, 3, 3)], 5) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6), st.integers(1, 7))
def test_no_row_is_lost_or_moved(spans, size):
    given_spans = [Span(A, start, start + rows) for start, rows in spans]
    blocks = cut(given_spans, size)
    assert [i for block in blocks for span in block for i in range(span.start, span.stop)] == [
        i for span in given_spans for i in range(span.start, span.stop)
    ]
    assert all(count_of(block) == size for block in blocks[:-1]) and all(count_of(block) for block in blocks[-1:])


def test_rows_of(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f"{i}\n" for i in range(9)))
    file = SourceFile(str(path), "x.jsonl")
    assert [row.row for row in rows_of([Span(file, 7, 9), Span(file, 0, 2)])] == [7, 8, 0, 1]


KINDS = ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.json", "list.json", "x.csv.gz", "x.csv", "x.parquet", "x.arrow"]


def write_rows_as(path, rows):
    """`rows` of strings, in the format that the name of `path` says."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name == "list.json":
        path.write_text(json.dumps(rows, indent=1))
    elif ".csv" in path.name:
        lines = io.StringIO()
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        lines = lines.getvalue()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)  # one row group
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".zst":
        path.write_bytes(pa.compress(lines.encode(), "zstd", asbytes=True))
    elif path.name != "list.json":
        path.write_text(lines)
    return SourceFile(str(path), path.name)


def bytes_read():
    """By this process, from files of any kind."""
    with open("/proc/self/io") as counters:
        return int(counters.readline().removeprefix("rchar: "))


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_read_about_once_after_they_were_counted(tmp_path, name):
    rng = random.Random(0)
    rows = [{"i": str(i), "text": rng.randbytes(40).hex()} for i in range(60_000)]
    file = write_rows_as(tmp_path / name, rows)
    list(read_rows(write_rows_as(tmp_path / f"small_{name}", rows[:10])))  # what it imports is read, too
    before = bytes_read()
    blocks = cut(count_files([file], f"{tmp_path}/copies"), 8192)
    found = [source.row for block in blocks for source in rows_of(block)]
    times = (bytes_read() - before) / (tmp_path / name).stat().st_size
    assert found == rows and len(blocks) == 8
    assert times < 2.2


@pytest.mark.parametrize("name", KINDS)
def test_a_part_is_read_as_in_the_whole(tmp_path, monkeypatch, name):
    monkeypatch.setattr("marin_sft.data.rows.row_files._ROWS_WITHOUT_COPY", 20)
    monkeypatch.setattr("marin_sft.data.rows.row_files.ROWS_APART", 7)
    monkeypatch.setattr("marin_sft.data.rows.row_copies.ROWS_APART", 7)
    monkeypatch.setattr("marin_sft.data.rows.text_rows._LINES_AT_ONCE", 3)
    file = write_rows_as(tmp_path / name, [{"i": str(i), "text": "é\n" * (i % 5)} for i in range(100)])
    whole = list(read_rows(file))
    (span,) = count_files([file], f"{tmp_path}/copies")
    assert span.stop == 100 and (span.places or name == "x.parquet")
    for start in range(0, 100, 3):
        for stop in (start, start + 1, min(start + 40, 100), 100):
            assert list(rows_of([dataclasses.replace(span, start=start, stop=stop)])) == whole[start:stop]
            assert list(rows_of([span.part(start, stop)])) == whole[start:stop]


def test_lines_and_bad_rows_of_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr("marin_sft.data.rows.row_files._ROWS_WITHOUT_COPY", 1)
    monkeypatch.setattr("marin_sft.data.rows.row_copies.ROWS_APART", 2)
    deep = "[" * 400 + "]" * 400
    lines = '\ufeff{"i": 1e999}\n\n{oops\n' + '"\\ud800"\n\n' + f"{deep}\n" + '{"i": -0.0}\r\n' + "7"
    texts = {
        "a.jsonl.gz": lines,
        "b.jsonl": lines,
        "c.json.gz": '{"i": 1e999}\n\n' + lines[1:],
        "d.csv": 'i\n1\n2,3\n"4\n5"\n6\n',
    }
    for name, text in texts.items():
        data = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        file = SourceFile(f"{tmp_path}/{name}", name)
        whole = [(source.line, str(source.row)) for source in read_rows(file)]
        (span,) = count_files([file], f"{tmp_path}/copies")
        parts = [source for block in cut([span], 1) for source in rows_of(block)]
        assert [(source.line, str(source.row)) for source in parts] == whole and len(whole) > 3


def test_few_rows_are_not_copied(tmp_path):
    file = write_rows_as(tmp_path / "x.jsonl.gz", [{"i": "0"}] * 8192)
    assert count_files([file], f"{tmp_path}/copies") == [Span(file, 0, 8192)]
    assert os.listdir(tmp_path) == ["x.jsonl.gz"]


def test_a_damaged_copy_is_named(tmp_path):
    file = write_rows_as(tmp_path / "x.jsonl.gz", [{"i": "0"}] * 8193)
    (span,) = count_files([file], f"{tmp_path}/copies")
    os.truncate(f"{tmp_path}/copies/00000", 100)
    with pytest.raises(DataError, match="copies/00000: a copy of rows is damaged"):
        list(rows_of([span]))


def test_a_file_that_lost_rows_after_they_were_counted(tmp_path):
    file = write_rows_as(tmp_path / "x.jsonl", [{"i": str(i)} for i in range(9)])
    (span,) = count_files([file])
    write_rows_as(tmp_path / "x.jsonl", [{"i": str(i)} for i in range(8)])
    with pytest.raises(DataError, match="x.jsonl: it ends after 8 rows, but had 9"):
        list(rows_of([span]))
