import json

import pytest

from marin_sft.data.messages.examples import BadRow
from marin_sft.data.rows.dropped import SAMPLE_CHARACTERS, Dropped, check_dropped, write_dropped
from marin_sft.data.rows.source_rows import SourceFile, SourceRow
from marin_sft.errors import DataError

FILE = SourceFile("/somewhere/a.jsonl", "a.jsonl")


def dropping(lines, reason="bad"):
    dropped = Dropped()
    for line in lines:
        dropped.add(SourceRow(FILE, line, {"text": "é" * 5000}), BadRow(reason, f"row {line}"))
    return dropped


def test_the_first_rows_of_each_reason_are_kept():
    whole = Dropped.together([dropping(range(4)), dropping(range(4, 20)), dropping(range(20, 22), "worse")])
    assert whole.counts == {"bad": 20, "worse": 2}
    assert [sample["line"] for sample in whole.samples] == [0, 1, 2, 3, 4, 20, 21]


def test_samples_say_where_and_what(tmp_path):
    unreadable = Dropped()
    unreadable.add(SourceRow(FILE, 3, BadRow("invalid_json", "x")), BadRow("invalid_json", "x"), split="train")
    write_dropped(str(tmp_path), [dropping([1]), Dropped(), unreadable])
    first, second = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert first.pop("row") == ('{"text": "' + "é" * 5000)[:SAMPLE_CHARACTERS]
    assert first == {"file": "a.jsonl", "line": 1, "reason": "bad", "message": "row 1"}
    expected = {"file": "a.jsonl", "line": 3, "reason": "invalid_json", "message": "x", "row": "", "split": "train"}
    assert second == expected


def test_nothing_dropped_writes_nothing(tmp_path):
    write_dropped(str(tmp_path), [Dropped()])
    assert list(tmp_path.iterdir()) == []


def counting(**counts):
    return Dropped.together(dropping(range(count), reason) for reason, count in counts.items())


def test_check_dropped():
    def check(rows, share, **counts):
        check_dropped(rows, counting(**counts), share, "paths", "/out", "Mend them")

    check(100, 0.05, a=5)
    check(2, 1.0, a=1)
    check(100, 0.05, a=5, identical_pair=90)
    check(100, 0.05, a=5, rated_bad=50, identical_pair=40)
    for rows, counts, share in (
        (100, {"a": 5, "b": 1}, 0.05),
        (2, {"a": 2}, 1.0),
        (2, {"rated_bad": 2}, 1.0),
        (0, {}, 1.0),
    ):
        with pytest.raises(DataError, match=f"{sum(counts.values())} of {rows} rows dropped"):
            check(rows, share, **counts)


def test_too_many_dropped_rows_are_shown():
    with pytest.raises(DataError) as raised:
        check_dropped(100, counting(rare=1, common=60, identical_pair=9), 0.05, "paths", "/out", "Mend them")
    first, *shown, last = str(raised.value).splitlines()
    assert "70 of 100 rows dropped (common: 60, identical_pair: 9, rare: 1)" in first and "at most 5.0%" in first
    at = "  /somewhere/a.jsonl"
    assert shown == [f"{at}:0: common: row 0", f"{at}:0: rare: row 0", f"{at}:1: common: row 1"]
    assert "/out/dropped.jsonl" in last and "preview --data /somewhere/a.jsonl" in last
    assert last.endswith("Mend them, or raise max_dropped")
